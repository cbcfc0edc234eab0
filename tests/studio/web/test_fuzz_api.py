"""The public functions, called with whatever a stranger may send: an answer, or what is wrong.

By default about 50 calls of each and a few over HTTP; 2,000 and 40 with `-m slow`.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.web.page import build_page, launch_options
from tests.helpers.clip import save_small_clip
from tests.helpers.models import save_small_model
from tests.helpers.pipelines import small_sd
from tests.helpers.studio import ANN, BOB, SITE, add_map

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    # The Studio's worker, which trains meanwhile, draws random numbers; the strategies do not.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

FEW, MANY = 50, 2000
FEW_OVER_HTTP, MANY_OVER_HTTP = 8, 40
# Of any call, on a machine that has much else to do.
MAX_SECONDS = 30.0
PUBLIC = ("new_visitor", "list_maps", "list_prompt_sets", "train", "job", "cancel", "complete",
          "picture")  # fmt: skip
WORDS = {"model.layers.1.post_attention_layernorm": 16}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60)
    | st.sampled_from(["\ud800", "\x00", "a" * 5000, "../../etc/passwd", "<script>", "%s{0}", "~",
                       "/", ".", "https://x.y/z", "-1", "nan", "'; DROP TABLE maps; --", 10**400,
                       -(2**63), 2**64, 1e308]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    limits = dict.fromkeys(("max_requests", "requests_in_all"), 10**9)
    queue = dict.fromkeys(("max_jobs", "max_queued"), 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(clip, "_loaded", {})
        patch.setitem(clip.SCORERS, "clip-emoji", save_small_clip(home / "clip"))
        studio = Studio(Settings(home=home, max_steps=3, **limits, **queue), environment={})
        yield studio
        studio.close()


@pytest.fixture(scope="module")
def samples(
    studio: Studio, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, st.SearchStrategy[Any]]:
    """Parameter -> what it may well be, so that calls get past the first check."""
    folder = tmp_path_factory.mktemp("models")
    small_sd().save_pretrained(folder / "sd")
    painter, writer = str(folder / "sd"), str(save_small_model("llama", folder / "llama"))
    ink, words = add_map(studio, painter, {SITE: 16}, 0), add_map(studio, writer, WORDS, 1)
    lines = [f"ab {n}" for n in range(5)]
    others = [f"xy {n}" for n in range(5)]
    own = lc.PromptSet(name="own", source=lines, target=others)
    job = studio.jobs.start(owner_of(ANN), writer, own, {"steps": 1})
    prompts = studio.library.add_prompts(owner_of(ANN), own)
    texts = st.lists(st.text(max_size=20), max_size=10)
    return {
        "visitor": st.sampled_from([ANN, BOB]),
        "search": st.text(max_size=10),
        "modality": st.sampled_from(["", "text", "image"]),
        # Always given: the default is an embedded model.
        "model": st.sampled_from([writer, writer, painter]),
        "picture.model": st.sampled_from([painter, painter, writer]),
        "picture.maps": st.lists(st.just(ink), max_size=2),
        "prompt_set": st.sampled_from(["", "football", prompts.id]),
        "source": st.sampled_from([lines, None]) | texts,
        "target": st.sampled_from([others, None]) | texts,
        "concept": st.text(max_size=20),
        "steps": st.integers(-1, 4),
        "sites": st.sampled_from(["", "layernorm", ".*mlp", "norm", "(", ".*"])
        | st.text(max_size=9),
        "method": st.sampled_from(["lineas", "mean-act", "lin-act", "caa"]),
        "job_id": st.sampled_from([job.id, "nothing"]),
        "prompt": st.text(min_size=1, max_size=30),
        "prompts": st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3),
        "maps": st.lists(st.just(words), max_size=2),
        "strengths": st.lists(st.floats(-1, 2), min_size=2, max_size=2),
        "seed": st.integers(-1, 2**63),
        "tokens": st.integers(0, 12),
    }


@pytest.fixture(scope="module")
def page(studio: Studio) -> gr.Blocks:
    return build_page(studio)


@pytest.fixture(scope="module")
def functions(page: gr.Blocks) -> dict[str, Callable[..., Any]]:
    """The functions that Gradio calls, by their public names."""
    return {
        str(block.api_name): block.fn
        for block in page.fns.values()
        if block.api_visibility == "public" and block.fn is not None
    }


def test_every_public_function_is_called(functions: dict[str, Callable[..., Any]]) -> None:
    assert set(functions) == set(PUBLIC)


def calls_of(
    function: Callable[..., Any], samples: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments, each as it may well be or anything at all."""
    names = list(inspect.signature(function).parameters)
    own = {name: samples.get(f"{function.__name__}.{name}", samples[name]) for name in names}
    likely = st.fixed_dictionaries(own).map(fitting)
    one_off = st.builds(
        lambda call, name, value: {**call, name: value}, likely, st.sampled_from(names), JUNK
    ) if names else likely  # fmt: skip
    wild = st.fixed_dictionaries({name: sample | JUNK for name, sample in own.items()})
    return likely | one_off | one_off | wild


def fitting(call: dict[str, Any]) -> dict[str, Any]:
    """With a strength for each map."""
    return {**call, "strengths": call["strengths"][: len(call["maps"])]} if "maps" in call else call


def check_words(text: str, studio: Studio) -> None:
    """A message or an answer tells neither how the server failed nor where anything is."""
    for told in ("Something unexpected", "Traceback", 'File "', str(studio.settings.home),
                 sys.prefix, "site-packages"):  # fmt: skip
        assert told not in text, text[:2000]


def examples(count: int) -> settings:
    """So many of them, all new, and none made smaller: what counts is what comes back."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def fuzz(
    name: str,
    count: int,
    studio: Studio,
    functions: dict[str, Callable[..., Any]],
    samples: dict[str, st.SearchStrategy[Any]],
) -> tuple[int, int, float]:
    """Call a function `count` times; says how often it answered, refused, and the longest time."""
    function, seen, longest = functions[name], [0, 0], 0.0

    @seed(20250)
    @examples(count)
    @given(calls_of(function, samples))
    def call(arguments: dict[str, Any]) -> None:
        nonlocal longest
        began = time.monotonic()
        try:
            found = function(**arguments)
        except gr.Error as error:
            seen[1] += 1
            check_words(str(error.message), studio)
        else:
            seen[0] += 1
            check_words(json.dumps(found), studio)
        longest = max(longest, time.monotonic() - began)
        assert longest < MAX_SECONDS, f"{name}({arguments}) took {longest:.0f} s"

    call()
    return seen[0], seen[1], longest


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_any_arguments_get_an_answer_or_a_message(
    name: str,
    count: int,
    studio: Studio,
    functions: dict[str, Callable[..., Any]],
    samples: dict[str, st.SearchStrategy[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "lineas_core.studio.access.error_messages"):
        answered, refused, longest = fuzz(name, count, studio, functions, samples)
    assert [r for r in caplog.records if r.name == "lineas_core.studio.access.error_messages"] == []
    print(f"{name}: {answered} answered, {refused} refused, longest {longest:.2f} s")
    # Not everything was refused at the door.
    assert answered


def test_jobs_of_strangers_fail_with_words_only(studio: Studio) -> None:
    for job in studio.jobs.recent(owner_of(ANN), 10_000):
        assert "Traceback" not in job.message


@pytest.fixture(scope="module")
def web(studio: Studio, page: gr.Blocks) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(studio.scratch.uploads))
        page.launch(prevent_thread_lock=True, quiet=True, **launch_options(studio))
        with httpx.Client(base_url=str(page.local_url).rstrip("/"), timeout=60) as client:
            yield client
        page.close()


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize(
    "count", [FEW_OVER_HTTP, pytest.param(MANY_OVER_HTTP, marks=pytest.mark.slow)]
)
def test_any_call_over_http_gets_an_answer_or_a_message(
    name: str,
    count: int,
    studio: Studio,
    functions: dict[str, Callable[..., Any]],
    samples: dict[str, st.SearchStrategy[Any]],
    web: httpx.Client,
) -> None:
    rows = calls_of(functions[name], samples).map(lambda call: list(call.values()))

    @seed(20251)
    @examples(count)
    @given(rows | rows | rows | st.lists(JUNK, max_size=10) | JUNK)
    def post(data: Any) -> None:
        # As a browser would not write it: NaN, lone surrogates and numbers of 400 digits included.
        body = json.dumps({"data": data}).encode()
        headers = {"content-type": "application/json"}
        joined = web.post(f"/gradio_api/call/{name}", content=body, headers=headers)
        check_words(joined.text, studio)
        if joined.status_code != 200:
            assert joined.status_code in (400, 422), joined.text[:2000]
            return
        heard = web.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}")
        assert heard.status_code == 200
        check_words(heard.text, studio)
        assert "event: complete" in heard.text or "event: error" in heard.text, heard.text[:2000]

    post()
    # And it still works.
    assert web.get("/config").status_code == 200
