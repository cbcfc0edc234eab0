"""Steps over tensors at fixed places write what transformers does, and read nothing back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lineas_core as lc
from lineas_core.models.language import decoding
from lineas_core.models.language.batching import steps_in_place
from lineas_core.models.language.fixed_step import FixedStep, is_plain, shortest_window, taken
from lineas_core.models.language.sampling import GumbelNoise, Sampling
from lineas_core.models.language.traits import Traits, watched
from lineas_core.system.graphs import Graphs
from tests.helpers.models import ARCHITECTURES, random_map, save_checkpoint
from tests.helpers.reads import NoKernels, NoMethods
from tests.helpers.recording import RecordedGraphs
from tests.models.language.test_families import FAMILIES, OTHERS

PROMPTS = ["ab", "a longer text, twice", "c", "hello there"] * 3
SEEDS = list(range(len(PROMPTS)))

Generate = Callable[..., list[str]]


def runs(patch: pytest.MonkeyPatch, *ways: Graphs | None) -> Generate:
    """Generates in several ways, which must agree in what they return and in what they tell."""

    def generate(model: lc.LanguageModel, *given: Any, **settings: Any) -> list[str]:
        results = []
        for graphs in ways:
            patch.setattr(Traits, "graphs", lambda *_, graphs=graphs: graphs)
            told: list[list[str]] = []
            texts = model.generate(*given, **settings, on_texts=told.append)
            results.append((texts, told))
        assert all(result == results[0] for result in results)
        return results[0][0]

    return generate


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Generates by transformers and by fixed steps, as on a GPU, but without a graph."""
    return runs(monkeypatch, None, Graphs("a test", possible=False))


def load(small_models: dict[str, Path], architecture: str, *, ends: int = 0) -> lc.LanguageModel:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    if ends:
        model.module.generation_config.eos_token_id = list(range(0, 300, ends))
    return model


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_fixed_steps_write_what_transformers_does(
    small_models: dict[str, Path],
    architecture: str,
    both: Generate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Many segments: caches that are full after a few tokens, and batches that halve.
    monkeypatch.setattr(decoding, "ROOM", 5)
    monkeypatch.setattr(decoding, "TOKENS_WORTH_SHRINKING", 1)
    model = load(small_models, architecture, ends=25)
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 16), 0, spread=0.1)
    steer = [(smap, torch.linspace(0, 1, len(PROMPTS)))]
    sampled = both(model, PROMPTS, steer, seed=SEEDS, max_new_tokens=30)
    assert len({len(text) for text in sampled}) > 4
    assert both(model, PROMPTS, steer, seed=SEEDS, max_new_tokens=30, temperature=0) != sampled


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_what_is_replayed_without_python_writes_the_same(
    small_models: dict[str, Path], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "ROOM", 12)
    model = load(small_models, architecture)
    model.module.generation_config.repetition_penalty = 1.2
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 16), 0, spread=0.1)
    steer = [(smap, torch.linspace(0, 1, 4))]
    graphs = RecordedGraphs()
    generate = runs(monkeypatch, None, graphs)
    generate(model, PROMPTS[:4], steer, seed=SEEDS[:4], max_new_tokens=30, temperature=0.8)
    assert [graph.replays for graph in graphs.made] == [11, 12]


class Refused(Graphs):
    """Graphs of which no capture succeeds."""

    asked = 0

    def capture(self, step: object, device: torch.device) -> None:
        self.asked, self.possible = self.asked + 1, False


def test_a_capture_that_fails_is_not_tried_again(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "ROOM", 10)
    graphs = Refused("a test", possible=True)
    runs(monkeypatch, None, graphs)(tiny, PROMPTS[:2], seed=SEEDS[:2], max_new_tokens=30)
    assert graphs.asked == 1


def test_fixed_steps_sample_all_tokens_at_a_temperature_in_several_batches(
    tiny: lc.LanguageModel, both: Generate
) -> None:
    settings = {"temperature": 0.7, "top_k": 0, "batch_size": 5}
    assert len(set(both(tiny, PROMPTS, seed=SEEDS, max_new_tokens=10, **settings))) == len(PROMPTS)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 4, 6, 7])
def test_short_texts_end_where_they_should(
    small_models: dict[str, Path], both: Generate, max_new_tokens: int
) -> None:
    # One prompt, and rows of which many end at once: all end before, at or after a look.
    model = load(small_models, "llama", ends=2)
    for prompts in (PROMPTS[:1], PROMPTS[:3]):
        for seed in range(3):
            texts = both(model, prompts, seed=seed, max_new_tokens=max_new_tokens)
            # Nobody listens, and nothing but the end of all rows ends the writing.
            assert model.generate(prompts, seed=seed, max_new_tokens=max_new_tokens) == texts


def test_a_penalty_for_repeated_tokens_is_given(
    small_models: dict[str, Path], both: Generate
) -> None:
    model = load(small_models, "qwen2")
    free = both(model, PROMPTS, max_new_tokens=30, temperature=0)
    model.module.generation_config.repetition_penalty = 3.0
    assert is_plain(model.module.generation_config)
    assert both(model, PROMPTS, max_new_tokens=30, temperature=0) != free
    model.module.generation_config.no_repeat_ngram_size = 2
    assert not is_plain(model.module.generation_config)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_families_step_in_place_where_that_writes_the_same(
    tmp_path: Path, family: str, both: Generate
) -> None:
    config = OTHERS[family] if family in OTHERS else FAMILIES[family][0]
    model = lc.load_model(str(save_checkpoint(config, tmp_path)), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    sound = steps_in_place(model.module, 0, Graphs("a test", possible=True))
    assert sound is (family in {"qwen3", "gptj", "vaultgemma"})
    if sound:
        both(model, PROMPTS, seed=SEEDS, max_new_tokens=20)


def test_windows_are_probed_beyond_their_length(small_models: dict[str, Path]) -> None:
    model = load(small_models, "gemma2")
    window = shortest_window(model.module)
    assert window == 8
    graphs = Graphs("a test", possible=True)
    assert steps_in_place(model.module, 0, graphs, window + 6)
    # A layer that sees more than its window is noticed where the window is exceeded.
    wide = copy.deepcopy(model.module)
    generate = wide.generate

    def narrow(*given: Any, **settings: Any) -> Any:
        output = generate(*given, **settings)
        wide.config.sliding_window = 64
        return output

    wide.generate = narrow
    assert not steps_in_place(wide, 0, graphs, window + 6)


def test_a_model_that_somebody_watches_is_noticed(tiny: lc.LanguageModel) -> None:
    module = copy.deepcopy(tiny.module)
    assert not watched(module)
    handle = module.get_submodule("model.norm").register_forward_hook(lambda *_: None)
    assert watched(module)
    handle.remove()
    smap = lc.SteeringMap({"model.norm": lc.Affine(torch.ones(16), torch.ones(16))})
    with lc.steer(module, [(smap, 1.0)]):
        assert watched(module)
    assert not watched(module)


def test_on_a_cpu_transformers_runs_the_steps(tiny: lc.LanguageModel) -> None:
    assert Traits(tiny.module, 0).graphs(10) is None


@torch.no_grad()
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_step_reads_nothing_back(
    small_models: dict[str, Path], architecture: str, sampled: bool
) -> None:
    model = load(small_models, architecture)
    model.module.generation_config.repetition_penalty = 1.1
    ids, mask = torch.tensor([[0, 0, 7], [8, 9, 10]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 16), 0)

    def generate(tokens: int) -> tuple[Any, list[Any]]:
        processors: list[Any] = [transformers.TemperatureLogitsWarper(0.5)]
        if sampled:
            processors.append(GumbelNoise([1, 2], 5))
        settings = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=tokens, return_dict_in_generate=True, pad_token_id=0
        )
        output = model.module.generate(
            ids, attention_mask=mask, generation_config=settings, logits_processor=processors
        )
        return output, processors

    with lc.steer(model, [(smap, torch.tensor([0.5, 1.0]))]):
        wanted = generate(11)[0].sequences
        first, processors = generate(1)
        layers = taken(first.past_key_values)
        step = FixedStep(model.module, first.sequences, mask, layers, processors, room=10)
        place = step.ids.data_ptr()
        with NoMethods(), NoKernels():
            for _ in range(10):
                step()
    assert step.ids.data_ptr() == place
    assert torch.equal(step.ids, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_graphs_write_what_transformers_does(
    small_models: dict[str, Path], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cuda", dtype="float32")
    assert isinstance(model, lc.LanguageModel)
    model.module.generation_config.eos_token_id = list(range(0, 300, 25))
    graphs = model._traits.graphs(100)
    assert graphs is not None
    replayed: list[int] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(1), replay(graph))
    )
    monkeypatch.setattr(decoding, "ROOM", 16)
    monkeypatch.setattr(decoding, "TOKENS_WORTH_SHRINKING", 8)
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 16), 0, spread=0.1)
    steer = [(smap, torch.linspace(0, 1, len(PROMPTS)))]
    both = runs(monkeypatch, None, graphs)
    both(model, PROMPTS, steer, seed=SEEDS, max_new_tokens=60)
    both(model, PROMPTS, steer, seed=SEEDS, max_new_tokens=60, temperature=0)
    assert graphs.possible
    assert len(replayed) > 60


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_reads_back_is_left_to_transformers(
    small_models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cuda", dtype="float32")
    assert isinstance(model, lc.LanguageModel)
    wanted = model.generate(PROMPTS, seed=SEEDS, max_new_tokens=20)
    norm = model.module.get_submodule("model.norm")
    forward = norm.forward

    def reading(x: torch.Tensor) -> torch.Tensor:
        assert float(x.sum()) != 0
        return forward(x)

    norm.forward = reading
    traits = Traits(model.module, 0)
    assert traits.graphs(30) is None
    assert traits.graphs(30) is None
    assert caplog.text.count("without a CUDA graph") == 1
    model._traits = traits
    assert model.generate(PROMPTS, seed=SEEDS, max_new_tokens=20) == wanted


def test_rows_end_at_a_look_in_both_ways(
    small_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(small_models, "llama")
    whole = model.generate(PROMPTS, seed=SEEDS, max_new_tokens=40)

    def end_early(found: list[decoding.Completion]) -> list[int]:
        return [row for row, each in enumerate(found) if len(each.tokens) >= 3 * (row + 1)]

    results = []
    for graphs in (None, Graphs("a test", possible=False)):
        monkeypatch.setattr(Traits, "graphs", lambda *_, graphs=graphs: graphs)
        sampling = Sampling(max_new_tokens=40)
        results.append(model.complete(PROMPTS, (), sampling, seed=SEEDS, on_look=end_early))
    assert results[0] == results[1]
    for row, (cut, text) in enumerate(zip(results[0], whole, strict=True)):
        assert text.startswith(cut.text.rstrip("\ufffd"))
        assert len(cut.tokens) <= min(40, 3 * (row + 1))
    assert [len(cut.tokens) for cut in results[0][:3]] == [3, 6, 9]
