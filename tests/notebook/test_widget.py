"""The widget's own fields are moved, and its output is what the model makes."""

from __future__ import annotations

import html
import io
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ipywidgets
import nbformat
import numpy as np
import pytest
from PIL import Image

import lineas_core as lc
from lineas_core.models.load import as_image_model
from tests.helpers.kernel import WIDGET, environment, kernel
from tests.helpers.models import SIZES, random_map
from tests.helpers.studio import SITE as IMAGE_SITE

SITE = "model.layers.1.post_attention_layernorm"
MINUTE = 60.0


def text_map(seed: int) -> lc.SteeringMap:
    return random_map({SITE: SIZES["hidden_size"]}, seed)


def text_of(output: ipywidgets.HTML, prompt: str) -> str:
    """The text that an output shows behind the prompt."""
    shown = html.unescape(re.sub(r"<[^>]*>", "", output.value))
    assert shown.startswith(prompt)
    return shown.removeprefix(prompt)


def count_calls(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that grows with each call of `generate`, by what steers it."""
    calls: list[object] = []
    generate = model.generate

    def counted(prompts: object, steer: object = (), **settings: object) -> object:
        calls.append(steer)
        return generate(prompts, steer, **settings)

    monkeypatch.setattr(model, "generate", counted)
    return calls


def test_a_slider_shows_the_text_of_its_strength(tiny: lc.LanguageModel) -> None:
    first, second = text_map(1), text_map(2)
    panel = lc.widget(tiny, [(first, 0.5), (second, 0)], prompt="a <b> &", seed=3, max_new_tokens=9)
    assert panel.wait(MINUTE)
    untouched = tiny.generate(["a <b> &"], seed=3, max_new_tokens=9)[0]
    seen = set()
    for at in ((0.5, 0.0), (0.5, -1.0), (1.5, -1.0)):
        for slider, strength in zip(panel.strengths, at, strict=True):
            slider.value = strength
        assert panel.wait(MINUTE)
        steer = list(zip((first, second), at, strict=True))
        assert text_of(panel.before, "a <b> &") == untouched
        steered = text_of(panel.after, "a <b> &")
        assert steered == tiny.generate(["a <b> &"], steer, seed=3, max_new_tokens=9)[0]
        assert panel.status.value == ""
        seen.add(steered)
    assert len(seen | {untouched}) == 4
    panel.prompt.value, panel.seed.value = "zz", 4
    assert panel.wait(MINUTE)
    assert text_of(panel.before, "zz") == tiny.generate(["zz"], seed=4, max_new_tokens=9)[0]


def test_a_slider_shows_the_image_of_its_strength(
    painter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_image_model(lc.load_model(painter, device="cpu"))
    smap = random_map({IMAGE_SITE: 16}, 0)
    calls = count_calls(model, monkeypatch)
    panel = lc.widget(model, [(smap, 1)], prompt="a lion")
    for strength in (1.0, -0.5):
        panel.strengths[0].value = strength
        assert panel.wait(MINUTE)
        for output, steer in ((panel.before, []), (panel.after, [(smap, strength)])):
            [wanted] = lc.DiffusionModel.generate(model, ["a lion"], steer, seed=0)
            got = Image.open(io.BytesIO(output.value))
            np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
            assert output.layout.visibility == "visible"
    assert panel.before.value != panel.after.value
    # The untouched image is generated once.
    assert calls == [(), [(smap, 1.0)], [(smap, -0.5)]]


def test_a_slider_that_is_moved_fast_runs_its_last_value(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = lc.widget(tiny, [(text_map(1), 0)], max_new_tokens=4)
    assert panel.wait(MINUTE)
    calls = count_calls(tiny, monkeypatch)
    for hundredths in range(-100, 201):
        panel.strengths[0].value = hundredths / 100
    assert panel.wait(MINUTE)
    [[(_, strength)]] = calls
    assert strength.tolist() == [0, 2]


def test_a_moved_slider_ends_the_text_that_is_being_written(tiny: lc.LanguageModel) -> None:
    panel = lc.widget(tiny, [(text_map(1), 0)], max_new_tokens=4)
    assert panel.wait(MINUTE)
    tokens, started = 0, threading.Event()

    def counted(module: object, args: object) -> None:
        nonlocal tokens
        tokens += 1
        started.set()

    hook = tiny.module.register_forward_pre_hook(counted)
    try:
        long = lc.widget(tiny, [(text_map(1), 0)], max_new_tokens=100)
        assert started.wait(MINUTE)
        assert long.status.value == "Running …"
        long.strengths[0].value = 2.0
        assert long.wait(MINUTE)
    finally:
        hook.remove()
    assert 100 <= tokens < 200
    steer = [(text_map(1), 2.0)]
    prompt = "Once upon a time"
    wanted = tiny.generate([prompt], steer, max_new_tokens=100)[0]
    assert text_of(long.after, prompt) == wanted


def test_what_goes_wrong_is_a_message_and_the_next_answer_comes(tiny: lc.LanguageModel) -> None:
    panel = lc.widget(tiny, [(text_map(1), 1)], max_new_tokens=4)
    assert panel.wait(MINUTE)
    shown = panel.after.value
    panel.prompt.value = ""
    assert panel.wait(MINUTE)
    assert "Prompt 1 is empty" in panel.status.value
    assert panel.after.value == shown
    panel.prompt.value, panel.seed.value = "ab", -1
    assert panel.wait(MINUTE)
    assert "seed is -1" in panel.status.value
    panel.seed.value = 1
    assert panel.wait(MINUTE)
    assert panel.status.value == ""
    assert panel.after.value != shown


def test_an_error_of_another_library_is_a_message_too(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("<out of memory>")

    monkeypatch.setattr(tiny.module, "forward", broken)
    panel = lc.widget(tiny, [(text_map(1), 1)])
    assert panel.wait(MINUTE)
    assert panel.status.value == "RuntimeError: &lt;out of memory&gt;"
    assert "Traceback" in caplog.text


def test_sliders_bear_the_names_of_their_maps(tiny: lc.LanguageModel) -> None:
    named, sites = text_map(1), text_map(2).sites
    ink = lc.SteeringMap(sites, lc.MapInfo(concept="ink"))
    panel = lc.widget(tiny, [(named, 1), (ink, 0.5), (lc.SteeringMap(sites), 0)])
    sliders = [child for child in panel.children if isinstance(child, ipywidgets.FloatSlider)]
    assert [(s.description, s.value) for s in sliders] == [
        ("random 1", 1), ("ink", 0.5), ("map 3", 0)
    ]  # fmt: skip
    assert all((s.min, s.max) == (-1, 2) for s in sliders)
    assert panel.wait(MINUTE)


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        ([], lc.ConfigError, "maps is empty"),
        (
            [(text_map(1), 1), (text_map(2), 2.5)],
            lc.ConfigError,
            r"Entry 2 of maps has .*2\.5.*-1 to 2",
        ),
        ([(random_map({"model.norms": 16}, 0), 0)], lc.SiteError, "model.norms"),
    ],
)
def test_wrong_maps_are_refused_at_once(
    tiny: lc.LanguageModel, maps: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lc.widget(tiny, maps)


def test_the_extra_is_named_where_ipywidgets_is_missing(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(lc.ConfigError, match=r"ipywidgets.*lineas-studio\[notebook\]"):
        lc.widget(tiny, [(text_map(1), 1)])


def test_neither_ipywidgets_nor_gradio_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, lineas_core as lc; lc.widget; print('ipywidgets' in sys.modules);"
        "import lineas_core.notebook.panel; print('gradio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_page_moves_a_slider_of_a_kernel(small_models: dict[str, Path], tmp_path: Path) -> None:
    """As Jupyter's pages do: by a message to the kernel, which answers with messages of its own."""
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    smap = text_map(1)
    smap.save(tmp_path / "map.safetensors")
    code = (
        "import lineas_core as lc\n"
        f"model = lc.load_model({str(small_models['llama'])!r}, device='cpu')\n"
        "smap = lc.SteeringMap.load('map.safetensors')\n"
        "panel = lc.widget(model, [(smap, 0.5)], prompt='ab', seed=3, max_new_tokens=9)\n"
        "panel"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with kernel(notebook, tmp_path) as running:
        assert WIDGET in notebook.cells[0].outputs[-1].data
        widgets = "panel.strengths[0], panel.after, panel.prompt, panel.status"
        ids = running.run(f"for each in ({widgets}): print(each.model_id)")
        slider, after, prompt, status = ids.split()
        for strength in (0.5, 1.5, -1.0):
            running.move(slider, value=strength)
            # The kernel takes one message after another.
            assert running.run("print(panel.strengths[0].value, panel.wait(60))").split() == [
                str(strength), "True"
            ]  # fmt: skip
            wanted = model.generate(["ab"], [(smap, strength)], seed=3, max_new_tokens=9)[0]
            assert html.escape(wanted) in running.shown(after)["value"]
        for wrong in ("smap", "[smap]", "[(smap, None)]"):
            caught = f"try: lc.widget(model, {wrong})\nexcept lc.ConfigError as error: print(error)"
            assert "maps" in running.run(caught)
        running.move(prompt, value="")
        assert running.run("print(panel.wait(60))").strip() == "True"
        assert "Prompt 1 is empty" in running.shown(status)["value"]
