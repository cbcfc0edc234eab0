"""Jobs leave no autograd graph behind: what a graph holds is the activations of a whole step."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import lineas_core as lc
from lineas_core.training import memory
from tests.helpers.jobs import CHANGES, Shop

pytestmark = pytest.mark.thorough

JOBS, WARM = 20, 3


class Mark:
    """What can be referred to weakly."""


class Marking(TorchFunctionMode):
    """Puts a mark on each node of each graph that is made; it lives for as long as its node."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = weakref.WeakSet[Mark]()
        self.made = 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                before = [node for node, _ in value.grad_fn.next_functions if node is not None]
                for node in (value.grad_fn, *before):
                    self._mark(node.metadata)
        return found

    def _mark(self, metadata: dict[str, Any]) -> None:
        if "mark" not in metadata:
            metadata["mark"] = mark = Mark()
            self.alive.add(mark)
            self.made += 1


def tensors() -> int:
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def left_behind(shop: Shop, prompts: lc.PromptSet, count: int) -> tuple[Marking, list[int]]:
    """After each of `count` jobs: how many tensors there are; and the marks of all their graphs."""
    jobs, marking, found = shop.jobs(), Marking(), []
    for number in range(count):
        method = ("lineas", "lineas+")[number % 2]
        job = jobs.start("ada", "tiny", prompts, {**CHANGES, "steps": 3}, method=method)
        with marking:
            jobs.work()
        assert shop.row(job).status == "done", shop.row(job).message
        gc.collect()
        found.append(tensors())
    return marking, found


def test_no_graph_and_no_tensor_is_left_of_twenty_jobs(shop: Shop, prompts: lc.PromptSet) -> None:
    marking, found = left_behind(shop, prompts, JOBS)
    assert marking.made > 500 * JOBS
    assert len(marking.alive) == 0
    assert found[-1] <= found[WARM]


def test_a_graph_that_holds_itself_is_seen(
    shop: Shop, prompts: lc.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that the test above is for: the hook that saves tensors gives them back."""
    hooks = torch.autograd.graph.saved_tensors_hooks
    monkeypatch.setattr(
        memory.torch.autograd.graph, "saved_tensors_hooks", lambda _, back: hooks(lambda t: t, back)
    )
    marking, _ = left_behind(shop, prompts, 2)
    assert len(marking.alive) > 0
