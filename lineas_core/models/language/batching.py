"""What a language model's batches can do, found by running it on a few tokens.

Recurrent and hybrid models (Mamba, RWKV, RecurrentGemma, ...) differ in this from transformers, and
from each other: some read padding as text, and some caches cannot lose rows. No list of families
would stay complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lineas_core.models.language.fixed_step import FixedStep, has_fixed_size, taken
from lineas_core.system.graphs import Graphs

# Allowed root mean square difference of logits, in their standard deviations, by the dtype of the
# weights. Measured in bfloat16: rounding gives 0.05 (SmolLM2) and 0.10 (Gemma 3 270M), padding that
# is read as text 0.40 (RWKV) and more. The largest difference of a vocabulary tells them less well.
TOLERANCE = {torch.float32: 1e-2}
TOLERANCE_OF_HALF = 0.25
TOKENS = 6
STATE = ("recurrent_states", "conv1d_state")


@torch.no_grad()
def batches_soundly(module: transformers.PreTrainedModel, pad: int) -> bool:
    """Whether a prompt in a batch, padded on its left, is continued as it is alone.

    Args:
        module: the model, unsteered.
        pad: id of the padding token.
    """
    row = few_tokens(module, TOKENS)
    short = row[:, : TOKENS // 2]
    padding = torch.full_like(short, pad)
    mask = torch.ones(2, TOKENS, dtype=torch.long, device=row.device)
    mask[0, : TOKENS // 2] = 0
    # Beside a longer prompt, since models skip a mask in which every token is real; and for two
    # steps, since the second goes through the cache.
    batch = torch.cat([torch.cat([padding, short], dim=1), row])
    together = _generate(module, batch, mask, steps=2).logits
    alone = _generate(module, short, torch.ones_like(short), steps=2).logits
    limit = _tolerance(module)
    return all(_alike(a[0], b[0], limit) for a, b in zip(together, alone, strict=True))


@torch.no_grad()
def looks_ahead(module: transformers.PreTrainedModel) -> bool:
    """Whether tokens attend to those after them, as in an encoder."""
    row, kept = few_tokens(module, TOKENS), TOKENS // 2
    other = row.clone()
    other[:, kept:] = row[:, :kept]
    logits = module(input_ids=torch.cat([row, other]), use_cache=False).logits[:, :kept]
    return not _alike(logits[0], logits[1], _tolerance(module))


@torch.no_grad()
def generates(module: transformers.PreTrainedModel) -> str:
    """Why transformers cannot generate with the model; "" if it can."""
    row = few_tokens(module, TOKENS)
    try:
        _generate(module, row, torch.ones_like(row), steps=2)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever a family's code comes upon.
        return f"{type(error).__name__}: {error}"
    return ""


@torch.no_grad()
def drops_rows(module: transformers.PreTrainedModel) -> bool:
    """Whether rows can leave the model's cache while the others go on."""
    row = few_tokens(module, TOKENS)
    rows = torch.cat([row.flip(1), row])
    try:
        cache: Any = _generate(module, rows[:, :-1], torch.ones_like(rows[:, :-1])).past_key_values
        cache.batch_select_indices(torch.tensor([1], device=row.device))
        mask = torch.ones_like(row)
        after = module(row[:, -1:], past_key_values=cache, attention_mask=mask).logits[0, -1]
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    return _alike(after, module(row).logits[0, -1], _tolerance(module))


@torch.no_grad()
def steps_in_place(
    module: transformers.PreTrainedModel, pad: int, graphs: Graphs, length: int = TOKENS
) -> bool:
    """Whether `FixedStep` writes what `generate` does, and on a GPU reads nothing back.

    Args:
        module: the model, unsteered.
        pad: id of the padding token.
        graphs: gives up where something is read back.
        length: tokens of the longer of the two rows.
    """
    row = few_tokens(module, length)
    batch, mask = torch.cat([row, row.flip(1)]), torch.ones(2, length, device=row.device).long()
    batch[0, : length // 2], mask[0, : length // 2] = pad, 0
    wanted = _generate(module, batch, mask, steps=3)
    first = _generate(module, batch, mask)
    if not has_fixed_size(first.past_key_values):
        return False
    seen: list[Tensor] = []

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores)
        # Both go on with the same token, even where rounding changes which is the likeliest.
        chosen: Tensor = wanted.scores[len(seen)]
        return chosen

    layers = taken(first.past_key_values)
    try:
        step = FixedStep(module, first.sequences, mask, layers, [look], room=3)
        step()
        if module.device.type == "cuda" and not graphs.check(step):
            return False
        while len(seen) < 2:
            step()
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    limit = _tolerance(module)
    for after, before in zip(seen, wanted.scores[1:], strict=True):
        # `generate` was told not to end, by scores that are not finite.
        finite = before.isfinite().all(dim=0)
        pairs = zip(after[:, finite], before[:, finite], strict=True)
        if not all(_alike(some, other, limit) for some, other in pairs):
            return False
    return True


def parts_with_state(module: nn.Module) -> list[nn.Module]:
    """Modules that keep the state of a text in themselves and not in a cache (RecurrentGemma)."""
    return [p for p in module.modules() if any(hasattr(p, name) for name in STATE)]


def forget_text(parts: Iterable[nn.Module]) -> None:
    """Clear the state of `parts_with_state`, with which a prompt of one token would go on."""
    for part in parts:
        for name in STATE:
            if hasattr(part, name):
                setattr(part, name, None)


def embedding_rows(module: transformers.PreTrainedModel) -> int:
    """Number of token ids that the model has an embedding for."""
    weight: Tensor = module.get_input_embeddings().weight
    return len(weight)


def few_tokens(module: transformers.PreTrainedModel, count: int) -> Tensor:
    """One row of token ids that the model has embeddings for."""
    return (torch.arange(count, device=module.device) * 7 + 3)[None] % embedding_rows(module)


def _generate(
    module: transformers.PreTrainedModel, ids: Tensor, mask: Tensor, steps: int = 1
) -> Any:
    """Greedy steps of `generate`; the cache holds all tokens but the last."""
    return module.generate(
        ids,
        attention_mask=mask,
        generation_config=transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=steps,
            min_new_tokens=steps,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
            pad_token_id=0,
            eos_token_id=None,
        ),
    )


def _tolerance(module: transformers.PreTrainedModel) -> float:
    # Not by the dtype of the logits, which `generate` gives in float32 whatever the weights are.
    return TOLERANCE.get(module.dtype, TOLERANCE_OF_HALF)


def _alike(some: Tensor, others: Tensor, limit: float) -> bool:
    difference = (some.float() - others.float()).square().mean().sqrt()
    return bool(difference <= limit * others.float().std())
