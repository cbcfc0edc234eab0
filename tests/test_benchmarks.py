from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import lineas_core as lc
from benchmarks import __main__ as runner
from benchmarks import folding, gpu, gpu_images, growth, steering, sweeps, training
from benchmarks.flops import count_work
from benchmarks.inputs import cut_prompts, random_map, random_prompts
from benchmarks.machine import extent, in_turns, matrix_rate, ratios, show, spread, watched_memory
from tests.helpers.pipelines import small_sd

pytestmark = pytest.mark.thorough

FIELDS = {"figure", "value", "spread", "seeds", "machine", "versions"}


@pytest.fixture(scope="module")
def llama(small_models: dict[str, Path]) -> str:
    return str(small_models["llama"])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pipeline")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small_sd().save_pretrained(folder)
    return str(folder)


def figures(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Parse stdout, which must contain only JSON lines."""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for figure in found:
        assert set(figure) >= FIELDS
        assert set(figure["versions"]) == {"torch", "transformers", "diffusers", "gradio"}
        assert figure["machine"]["processor"]
        assert figure["seeds"]
    return found


@pytest.mark.parametrize(
    ("architecture", "sites"),
    [
        ("llama", "post_layernorm"),
        ("llama", r"model\.layers\.1\..*layernorm"),
        ("llama", "o_proj"),
        ("qwen2", "layernorm"),
        ("gemma2", "post_layernorm"),
        ("gpt2", "post_layernorm"),
    ],
)
def test_work_is_what_torch_counts(
    small_models: dict[str, Path], architecture: str, sites: str
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    tokens, count = 10, 8
    sides = [["abcdefghij"[i:] + "abcdefghij"[:i] for i in range(count)] for _ in range(2)]
    prompts = lc.PromptSet("letters", sides[0], [line.upper() for line in sides[1]])
    config = lc.TrainConfig(rate=1e-4, holdout=0.0, sites=sites)
    trainer = lc.Trainer(model, prompts, config)
    with FlopCounterMode(display=False) as counted:
        trainer.step()
    work = count_work(model, model.prepare(prompts.source), trainer.sites)
    assert work.tokens == count * tokens
    # Eager attention also computes the products with future tokens.
    whole = work.attention * tokens**2 // (tokens * (tokens + 1) // 2)
    assert counted.get_total_flops() == work.linear + whole


def test_padding_is_no_work(tiny: lc.LanguageModel) -> None:
    sites = tiny.sites("post_layernorm")
    texts = ["ab", "abcdefg", "abcd"]
    together = count_work(tiny, tiny.prepare(texts), sites)
    alone = [count_work(tiny, tiny.prepare([text]), sites) for text in texts]
    assert together.tokens == 13
    assert together.linear == sum(work.linear for work in alone)
    assert together.attention == sum(work.attention for work in alone)


def test_prompts_have_the_lengths_asked_for(tiny: lc.LanguageModel) -> None:
    prompts = cut_prompts(tiny.tokenizer, 32, 9, 40)
    for side in (prompts.source, prompts.target):
        assert tiny.prepare(side).mask.sum(dim=1).tolist() == list(range(9, 41))
    assert prompts == cut_prompts(tiny.tokenizer, 32, 9, 40)
    assert set(prompts.source).isdisjoint(prompts.target)


def test_random_prompts_are_a_token_a_word() -> None:
    prompts = random_prompts(6, 5)
    assert {len(line.split()) for line in prompts.source + prompts.target} == {5}
    assert prompts == random_prompts(6, 5)
    assert prompts != random_prompts(6, 5, seed=1)


def test_spreads() -> None:
    times = [float(n) for n in range(1, 101)]
    assert spread(times) == {"p50": 50.5, "p95": 95.0, "count": 100}
    assert extent([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0, "count": 3}
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_actions_take_turns() -> None:
    calls: list[str] = []
    found = in_turns({name: lambda n=name: calls.append(n) for name in "ab"}, 3)
    assert "".join(calls) == "ab" * 4
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3}


def test_the_rate_is_that_of_the_best_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.machine.seconds", lambda *_: [2.0, 1.0, 4.0])
    assert matrix_rate(torch.float32, sizes=(4, 8, 2)) == 2 * 8**3


def test_memory_grows_by_what_is_held() -> None:
    # Use fresh pages: memory freed by other tests might be reused, and not count as growth.
    with watched_memory() as memory, mmap.mmap(-1, 64 * 2**20) as held:
        held.write(b"x" * len(held))
        sleep(0.05)
    assert 60 < memory.growth < 200


def test_numbers_are_rounded_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        "f", value=1.23456e-7, spread={"min": 0.123456}, points=[{"n": 8, "s": 98765.4}], none=None
    )
    assert json.loads(capsys.readouterr().out) == {
        "figure": "f",
        "value": 1.235e-7,
        "spread": {"min": 0.1235},
        "points": [{"n": 8, "s": 98770.0}],
        "none": None,
    }


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    sizes = [1, 2, 4, 16]
    assert growth.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_the_map_covers_the_sites_in_order(tiny: lc.LanguageModel) -> None:
    smap = random_map(tiny, tiny.sites("layernorm"), "abc")
    assert list(smap.sites) == [
        f"model.layers.{layer}.{norm}"
        for layer in range(3)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    assert smap.support() == 1.0


def test_training_runs(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--steps", "2", "--repeats", "2", "--limit", "2", "--sizes", "32"]
    training.main(["--model", llama, "--dtypes", "bfloat16", *sizes])
    found = figures(capsys)
    steps = [f for f in found if f["figure"].startswith("share of peak")]
    assert [f["figure"].rsplit(" ", 1)[1] for f in steps] == ["bfloat16"]
    for step in steps:
        assert step["tokens"] == sum(range(9, 41))
        seconds, peak = (step[name]["median"] for name in ("step_seconds", "peak_flops_per_second"))
        again = step["flops"] / seconds / peak
        assert step["value"] == pytest.approx(again, rel=0.5)
        assert step["spread"]["count"] == 2
    assert sum(f["figure"].startswith("memory") for f in found) == 1
    times = [f for f in found if f["figure"].startswith("time to")]
    assert len(times) == 8
    for time in times:
        assert (time["value"] is None) == (len(time["seconds"]) < 2)
        assert len(time["fit_seconds"]) == 2


def test_steering_runs(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batches", "1", "3", "--tokens", "3", "--rounds", "2", "2"]
    steering.main(["--model", llama, *sizes])
    found = figures(capsys)
    ways = ("this library", "a folded checkpoint", "steering-vectors", "repeng")
    assert [f["figure"] for f in found] == [
        f"seconds a token with {way}, over unsteered, batch {batch}"
        for batch in (1, 3)
        for way in ways
    ]
    assert [f["sites"] for f in found] == [6, 6, 6, 3] * 2
    assert all(f["value"] > 0 and f["spread"]["count"] == 2 for f in found)


def test_a_text_is_what_transformers_generates(tiny: lc.LanguageModel) -> None:
    inputs = tiny.prepare(["abc", "cba"])
    text, found = steering.Text(tiny.module, inputs), []
    for _ in range(4):
        text.write()
        found.append(text.last)
    expected = tiny.module.generate(
        inputs.ids, do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=0
    )
    assert torch.equal(torch.cat([inputs.ids, *found], dim=1), expected)


def test_every_rival_steers_and_leaves_the_model_as_it_was(tiny: lc.LanguageModel) -> None:
    ids = tiny.prepare(["abc"]).ids
    smap = random_map(tiny, tiny.sites("layernorm"), "abc")

    @torch.no_grad()
    def logits() -> torch.Tensor:
        return tiny.module(ids).logits

    before = logits()
    for steered in (
        lambda: steering.steered_by_vectors(tiny.module, smap),
        lambda: steering.steered_by_repeng(tiny.module),
    ):
        with steered():
            assert not torch.equal(logits(), before)
        assert torch.equal(logits(), before)


def test_sweeps_run(llama: str, pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    dtypes = ["--dtypes", "float32", "bfloat16"]
    sweeps.main(["--model", llama, "--images", pipeline, "--tokens", "3", "--rounds", "1", *dtypes])
    float32, bfloat16, images = figures(capsys)
    assert float32["texts_equal"]
    assert float32["grid"] == "8 x 7 of 3 tokens"
    assert bfloat16["figure"].endswith("bfloat16")
    assert images["largest_difference_of_255"] <= 1


def test_the_largest_difference_of_images() -> None:
    one, other = (Image.new("RGB", (2, 2), colour) for colour in [(250, 3, 9), (240, 3, 12)])
    assert sweeps.largest_difference([one, one], [one, other]) == 10


def test_folding_runs(llama: str, pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    folding.main(["--model", llama, "--images", pipeline])
    logits, pixels = figures(capsys)
    assert logits["value"] < 1e-4 < logits["unsteered_difference"]
    assert pixels["difference_of_255"] <= 1 < pixels["unsteered_difference_of_255"]


def test_growth_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(
        ["--points", "2", "--runs", "2", "--width", "16", "--plots", str(tmp_path),
         "--curves", "sites", "strengths"]
    )  # fmt: skip
    sites, strengths = figures(capsys)
    assert [point["sites"] for point in sites["points"]] == [2, 4]
    assert [point["strengths"] for point in strengths["points"]] == [1, 2]
    for name in ("sites", "strengths"):
        with Image.open(tmp_path / f"{name}.png") as plot:
            assert plot.width > 100


def test_gpu_runs_at_tiny_size(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--size", "tiny", "--steps", "2", "--sizes", "32"]
    for name in (*gpu.RUNS, *gpu.OTHERS):
        assert gpu.main([*settings, "--only", name]) == 0
    found = figures(capsys)
    training, others = found[: len(gpu.RUNS)], found[len(gpu.RUNS) :]
    assert [f["value"] > 0 for f in others] == [True] * 5
    assert [f["sites"] for f in training] == [2, 4, 2, 2]
    assert training[-1]["flops"] > 2 * training[0]["flops"]


def test_each_model_of_a_gpu_has_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = gpu.RUNS["qwen-1.5b"]
    monkeypatch.setattr(gpu, "RUNS", {"qwen-1.5b": run, "no-such-model": run})
    monkeypatch.setattr(gpu, "OTHERS", ())
    assert gpu.main(["--size", "tiny", "--steps", "2", "--sizes", "32"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["sites"] == 2
    assert "failed: no-such-model" in err


@pytest.mark.parametrize(
    ("shape", "billions"), [(gpu.QWEN_1B, 1.54), (gpu.QWEN_7B, 7.62), (gpu.GEMMA_2B, 2.61)]
)
def test_full_shapes_have_the_published_sizes(shape: dict[str, Any], billions: float) -> None:
    kind = next(kind for _, kind, known, _ in gpu.RUNS.values() if known is shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind(**shape))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


def test_the_image_model_has_the_published_size_and_sites() -> None:
    unet = gpu_images.make_unet(torch.device("meta"), tiny=False)
    parameters = sum(p.numel() for p in unet.module.parameters())
    assert parameters / 1e9 == pytest.approx(2.57, abs=0.01)
    assert len(unet.sites("norm")) == 256


def test_the_work_of_an_image_step_is_that_of_its_layers() -> None:
    """A pass on twice the images is twice the work, and the gradient is at most twice the pass."""
    unet = gpu_images.make_unet(torch.device("cpu"), tiny=True)
    one, two = (gpu_images.count_flops(unet, unet.prepare(["0"] * n)) for n in (1, 2))
    with FlopCounterMode(display=False) as counter:
        unet.forward(unet.prepare(["0"]))
    forward = counter.get_total_flops()
    assert two == 2 * one
    assert 1.5 * forward < one < 3.1 * forward


def test_full_size_needs_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="No GPU"):
        gpu.main([])


def test_the_runner_goes_on_behind_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Ended:
        def __init__(self, command: Sequence[str]) -> None:
            asked.append(command[-1])
            self.returncode = int(command[-1].endswith("steering"))

    monkeypatch.setattr(runner.subprocess, "run", Ended)
    assert runner.main([]) == 1
    assert asked == [f"benchmarks.{name}" for name in runner.NAMES]
    assert "failed: steering" in capsys.readouterr().err
    assert runner.main(["growth"]) == 0
