"""The checks that one family goes through, on a small random model of it.

| check | what has to hold |
| --- | --- |
| loads | `lc.load_model` loads the saved checkpoint |
| sites | the model has default sites |
| trains | `lc.train` with all defaults but 5 steps: losses are finite, the last below the first |
| batch | prompts of unlike lengths and strengths are continued in one batch as they are alone, also
  when some end early, and have the pooled activations that they have alone |
| strength | a random map at strength 0 leaves the logits as they are, bit for bit, and changes them
  at 1 |
| folds | the checkpoint of `lc.fold`, loaded by transformers, has the logits of the steered model |
| peft | so has the model with the adapter of `lc.to_peft` |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
import transformers
from torch import Tensor

import lineas_core as lc
from lineas_core.activations import execution_order, pooled_activations
from lineas_core.models.language.kinds import check_continues_text
from lineas_core.models.language.model import LanguageModel
from tools.architectures.row import Cell, Row
from tools.architectures.small import save_small, small_config

PROMPTS = lc.PromptSet(
    name="small",
    source=["A cat sat on the mat.", "It rained.", "The clock struck seven.", "Go"],
    target=["Goal! The striker scored.", "Kick", "The referee blew.", "A penalty at last"],
    concept="football",
)
OPENINGS = ["The", "A long opening that goes on for rather more than a few words", "Hi there"]
STEPS, NEW_TOKENS = 5, 10
# Share of the largest logit by which the logits of two computations of one thing may differ.
TOLERANCE = 1e-3


def check(family: str, folder: Path) -> Row:
    """Build a small model of the family in an empty folder, and put it through all checks."""
    cells: dict[str, Cell] = {}
    row = Row(family, cells)

    @contextmanager
    def checking(name: str) -> Iterator[None]:
        try:
            yield
        except lc.LineasError as error:
            cells[name] = Cell("refused", " ".join(str(error).replace(str(base), family).split()))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            cells[name] = Cell("fails", reason.replace(str(base), family)[:300])

    base = folder / "base"
    model: LanguageModel | None = None
    with checking("loads"):
        config = small_config(family)
        # Before `lc.load_model` asks the same, as some that it refuses cannot be built so small.
        check_continues_text(family, config)
        save_small(config, base)
        loaded = lc.load_model(str(base), device="cpu")
        assert isinstance(loaded, LanguageModel)
        model = loaded
        cells["loads"] = Cell("yes")
    if model is None:
        return row
    sites: list[str] = []
    with checking("sites"):
        sites = model.sites(model.default_sites)
        cells["sites"] = Cell("yes", f"`{model.default_sites}`: {len(sites)}")
    if not sites:
        return row
    trained: lc.SteeringMap | None = None
    with checking("trains"):
        result = lc.train(model, PROMPTS, lc.TrainConfig.for_model(model, steps=STEPS))
        trained = result.map
        cells["trains"] = _fell(result.losses)
    if trained is None:
        return row
    smap = _random_map(trained.widths)
    with checking("batch"):
        cells["batch"] = _batch(model, smap)
    with checking("strength"):
        cells["strength"] = _strength(model, smap)
    with checking("folds"):
        lc.fold(model, smap, to=folder / "folded")
        cells["folds"] = _same(model, smap, _plain(folder / "folded"))
    with checking("peft"):
        lc.to_peft(model, smap, to=folder / "adapter")
        adapted = peft.PeftModel.from_pretrained(_plain(base), folder / "adapter")
        cells["peft"] = _same(model, smap, adapted)
    return row


def _fell(losses: list[float]) -> Cell:
    told = f"{losses[0]:.3g} to {losses[-1]:.3g}"
    if not all(map(math.isfinite, losses)):
        return Cell("fails", f"a loss is not finite ({told})")
    return Cell("yes" if losses[-1] < losses[0] else "fails", f"loss {told}")


def _batch(model: LanguageModel, smap: lc.SteeringMap) -> Cell:
    # A token in six ends a text, so that rows end early.
    model.module.generation_config.eos_token_id = list(range(0, 256, 6))
    prompts, count = OPENINGS * 2, 2 * len(OPENINGS)
    strengths = torch.linspace(0, 1, count)

    def written(places: list[int], new_tokens: int = NEW_TOKENS) -> list[str]:
        chosen = [prompts[i] for i in places]
        steer = [(smap, strengths[places])]
        return model.generate(chosen, steer, seed=places, max_new_tokens=new_tokens)

    together = written([*range(count)])
    alone = [written([place])[0] for place in range(count)]
    if together != alone:
        return Cell("fails", f"the batch is continued by {together}, its prompts alone by {alone}")
    rows = model.prepare(OPENINGS)
    sites = execution_order(model, rows, [*smap.sites])
    pooled = pooled_activations(model, rows, sites)
    for place, prompt in enumerate(OPENINGS):
        for site, own in pooled_activations(model, model.prepare([prompt]), sites).items():
            if not torch.allclose(pooled[site][place], own[0], rtol=1e-3, atol=1e-4):
                return Cell("fails", f"pooled activations differ at {site}")
    passes = _counted(model, lambda: written([*range(count)], new_tokens=1))
    return Cell("yes", "rows run singly" if passes > 1 else "")


def _counted(model: LanguageModel, run: Callable[[], object]) -> int:
    """Forward passes of the model within `run`."""
    passes: list[int] = []
    handle = model.module.register_forward_hook(lambda *_: passes.append(1))
    run()
    handle.remove()
    return len(passes)


def _random_map(widths: dict[str, int]) -> lc.SteeringMap:
    draw = torch.Generator().manual_seed(0)
    sites = {}
    for site, width in widths.items():
        scale, shift = 0.3 * torch.randn(2, width, generator=draw)
        sites[site] = lc.Affine(1 + scale, shift)
    return lc.SteeringMap(sites)


@torch.no_grad()
def _logits(module: torch.nn.Module, limit: int = len(OPENINGS[1])) -> Tensor:
    """Logits of one prompt, of `limit` tokens at most."""
    ids = torch.tensor([list(OPENINGS[1].encode()[:limit])])
    logits: Tensor = module(input_ids=ids, use_cache=False).logits
    return logits.clone()


def _strength(model: LanguageModel, smap: lc.SteeringMap) -> Cell:
    plain = _logits(model.module)
    with lc.steer(model, [(smap, 0.0)]):
        untouched = _logits(model.module)
    with lc.steer(model, [(smap, 1.0)]):
        steered = _logits(model.module)
    if not torch.equal(plain, untouched):
        return Cell("fails", "strength 0 changes the logits")
    if not steered.isfinite().all() or torch.allclose(plain, steered, rtol=1e-3, atol=1e-3):
        return Cell("fails", "strength 1 does not change the logits")
    return Cell("yes")


def _plain(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def _same(model: LanguageModel, smap: lc.SteeringMap, other: torch.nn.Module) -> Cell:
    # A Mistral is folded into a Llama that reads as many tokens as its window has.
    limit = getattr(other.config, "max_position_embeddings", None) or len(OPENINGS[1])
    with lc.steer(model, [(smap, 1.0)]):
        expected = _logits(model.module, limit)
    found = _logits(other.eval(), limit)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        return Cell("fails", f"logits differ by {difference:.2g} of the largest")
    return Cell("yes")
