"""Recompute layers in backward, so that memory holds their inputs and the activations of one.

(Gradient checkpointing, Chen et al. 2016.) It costs another forward pass, with all prompts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lineas_core.hooks import Around, patched, site_hooks
from lineas_core.steerable import Continuations, Inputs

Result = TypeVar("Result")


def in_parts(
    run: Callable[[Any], Result], inputs: Inputs | Continuations, rows_at_once: int
) -> list[Result]:
    """What `run` gives for some rows of the inputs after the other, each recomputed in backward.

    So memory holds one part at a time.

    Args:
        run: a forward pass.
        inputs: all rows.
        rows_at_once: rows per pass; 0 runs all in one that keeps what it computes.
    """
    count = len(inputs)
    if not 0 < rows_at_once < count:
        return [run(inputs)]
    starts = range(0, count, rows_at_once)
    parts = [inputs.rows(range(start, min(start + rows_at_once, count))) for start in starts]
    # Frozen models draw no random numbers, and reading a GPU's generator would wait for it.
    again = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
    return [again(part) for part in parts]


def layers_of(module: nn.Module, sites: Sequence[str]) -> list[str]:
    """The layers that can be recomputed: elements of the outermost lists of modules with sites.

    The one with the last site is left out, as the pass ends within it. Empty if a site is a layer.

    Args:
        module: the model.
        sites: in the order in which the model runs them.
    """
    found: list[str] = []
    for name, part in module.named_modules():
        inner = any(name.startswith(f"{layer}.") for layer in found)
        if inner or not isinstance(part, nn.ModuleList | nn.Sequential):
            continue
        layers = [f"{name}.{key}" for key, _ in part.named_children()]
        if any(site in layers for site in sites):
            return []
        if any(site.startswith(f"{layer}.") for site in sites for layer in layers):
            found += layers
    return [layer for layer in found if not sites[-1].startswith(f"{layer}.")]


@contextmanager
def recomputing(
    module: nn.Module, layers: Iterable[str], hooks: Mapping[str, Any]
) -> Iterator[None]:
    """Within the block, and in this context only, layers forget their activations until backward.

    Args:
        module: the model.
        layers: names from `layers_of`.
        hooks: site -> hook, which are on in this context, and act when a layer is recomputed too.
    """
    modules = dict(module.named_modules())
    recomputed: dict[str, Around] = {}
    for layer in layers:
        inside = {name: modules[name] for name in hooks if name.startswith(f"{layer}.")}
        recomputed[layer] = _Recomputed(inside)
    with site_hooks(module, recomputed):
        yield


class _Recomputed(Around):
    """Runs a layer so that it is recomputed in backward.

    Args:
        sites: the modules with hooks in the layer, by name.
    """

    __slots__ = ("_sites",)

    def __init__(self, sites: Mapping[str, nn.Module]) -> None:
        self._sites = sites

    def around(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Backward runs after this block, on a GPU in a thread of autograd's own.
        context = copy_context()

        def run(*args: Any, **kwargs: Any) -> Any:
            return context.copy().run(self._run, forward, args, kwargs)

        # Frozen models draw no random numbers, and reading a GPU's generator would wait for it.
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def _run(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with ExitStack() as stack:
            for name, module in self._sites.items():
                stack.enter_context(patched(name, module))
            return forward(*args, **kwargs)

    def __call__(self, z: Tensor) -> Tensor:
        return z
