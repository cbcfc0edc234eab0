"""What a model is, found by running it once; kept for as long as the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import cached_property
from threading import Lock
from typing import Any

import transformers
from torch import nn

from lineas_core.errors import ModelError, SiteError
from lineas_core.hooks import hooked
from lineas_core.models.language.batching import (
    TOKENS,
    batches_soundly,
    drops_rows,
    forget_text,
    generates,
    parts_with_state,
    steps_in_place,
)
from lineas_core.models.language.fixed_step import is_plain, shortest_window
from lineas_core.models.language.structure import mlp_norms, text_order
from lineas_core.models.shared.sites import PAPER, match_sites
from lineas_core.system.devices import on_one_device
from lineas_core.system.graphs import Graphs


class Traits:
    """Properties of a model that no config tells.

    Each is found when it is first asked for, in a context of its own: maps that are on may have a
    strength for each row of a batch.

    Args:
        module: the model.
        pad: id of its padding token.
    """

    def __init__(self, module: transformers.PreTrainedModel, pad: int) -> None:
        self._module, self._pad = module, pad
        self._stateful, self._one_text = parts_with_state(module), Lock()
        self._graphs = Graphs("decoding", possible=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Traits:
        # A lock cannot be copied, and the copied model needs one of its own.
        return Traits(copy.deepcopy(self._module, memo), self._pad)

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Generate within: no state of another text is left in the model, and none comes in."""
        if not self._stateful:
            yield
            return
        with self._one_text:
            forget_text(self._stateful)
            yield

    def check_generates(self, id: str) -> None:
        """Refuse a model with which transformers itself cannot generate.

        Raises:
            ModelError: naming the model, `id`, and the reason.
        """
        if self._failure:
            raise ModelError(
                f"{id} ({self._module.config.model_type}) writes no texts: transformers "
                f"{transformers.__version__} fails on it ({self._failure}). Maps can be trained on "
                "it; to write, choose another model, or try another version of transformers."
            )

    @cached_property
    def _failure(self) -> str:
        return Context().run(generates, self._module)

    @cached_property
    def batches_soundly(self) -> bool:
        """Whether a prompt in a batch is continued as it is alone."""
        return Context().run(batches_soundly, self._module, self._pad)

    @cached_property
    def drops_rows(self) -> bool:
        """Whether rows can leave the model's cache while the others go on."""
        return Context().run(drops_rows, self._module)

    def graphs(self, length: int) -> Graphs | None:
        """What makes graphs of the steps of decoding; None where transformers is to run them.

        That is where a step would not be the same, or where Python has to run at each one, for
        somebody's hooks or to move activations between devices.

        Args:
            length: number of tokens of the longest text, with those to come.
        """
        module = self._module
        if module.device.type != "cuda" or not self._graphs.possible:
            return None
        if not is_plain(module.generation_config) or not on_one_device(module) or watched(module):
            return None
        window = self._window
        sound = (
            self._steps_in_place if window is None or length <= window else self._slides_in_place
        )
        return self._graphs if sound else None

    @cached_property
    def _window(self) -> int | None:
        return shortest_window(self._module)

    @cached_property
    def _steps_in_place(self) -> bool:
        return Context().run(steps_in_place, self._module, self._pad, self._graphs)

    @cached_property
    def _slides_in_place(self) -> bool:
        """The same for texts that are longer than a sliding window."""
        length = (self._window or 0) + TOKENS
        return Context().run(steps_in_place, self._module, self._pad, self._graphs, length)

    @cached_property
    def reached(self) -> frozenset[str]:
        """Names of the modules that run when the model reads text: no vision or audio tower."""
        return frozenset(self._order)

    @cached_property
    def flat(self) -> frozenset[str]:
        """Names of the modules that put out the tokens of all rows in one dimension (OPT)."""
        return frozenset(name for name, dimensions in self._order.items() if dimensions == 2)

    @cached_property
    def _order(self) -> dict[str, int]:
        return Context().run(text_order, self._module)

    @cached_property
    def default_sites(self) -> str:
        """The paper's preset; where it matches nothing, the norm before the MLP of each layer."""
        names = [name for name, _ in self._module.named_modules() if name in self.reached]
        try:
            match_sites(names, PAPER, self._module.config.model_type)
        except SiteError:
            return mlp_norms(self._module, self._order)
        return PAPER


def watched(module: nn.Module) -> bool:
    """Whether hooks of torch, of accelerate or at sites run Python inside the model."""
    return hooked(module) or any(
        part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook")
        for part in module.modules()
    )
