"""One training run on several processes, each with the whole model and a share of the prompts.

The loss compares a whole batch with the target, coordinate by coordinate after a sort, so it is
not a sum over prompts. Every rank r therefore gets the pooled activations Z of all ranks and
computes the same loss L from them. It then goes back through its own rows Z_r alone:

    dL/dtheta = sum over r of  dL/dZ_r  dZ_r/dtheta

Each term is known to one rank without asking another, so that gradients summed over the ranks
are those of one process, with no factor.

Rows are dealt out in turn: rank r takes rows r, r + ranks, r + 2 ranks, and so on.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as one of them sees them. One process alone talks to nobody.

    Attributes:
        index: of this process, from 0.
        count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """This process writes the files."""
        return self.index == 0

    def share(self, rows: Sequence[int]) -> Sequence[int]:
        """Those of the rows that this process runs; shares differ by one row at most.

        Raises:
            ConfigError: there are fewer rows than processes.
        """
        if len(rows) < self.count:
            raise ConfigError(
                f"{self.count} processes have {len(rows)} prompts a step to share. Launch "
                f"{len(rows)} at most, or raise batch_size and give more prompts."
            )
        return rows[self.index :: self.count]

    def gathered(self, own: Float[Tensor, "own d"], count: int) -> Float[Tensor, "count d"]:
        """The rows of all processes in their first order; those of this one keep their gradient.

        Args:
            own: what was found for this process's share.
            count: rows of all shares.
        """
        if self.count == 1:
            return own
        # Collectives want the same shape everywhere. The padding ends up behind all rows.
        most = -(-count // self.count)
        padded = own.new_zeros(most, own.shape[1])
        padded[: len(own)] = own.detach()
        found = own.new_empty(self.count * most, own.shape[1])
        dist.all_gather_into_tensor(found, padded)
        dealt = found.view(self.count, most, -1).transpose(0, 1).flatten(0, 1)
        dealt[self.index : count : self.count] = own
        return dealt[:count]

    @torch.no_grad()
    def sum(self, values: Sequence[Tensor]) -> None:
        """Add each tensor up over the processes, in place."""
        if self.count == 1:
            return
        # One message for all: each has its price, however short it is.
        flat = torch.cat([value.flatten() for value in values])
        dist.all_reduce(flat)
        for value, part in zip(values, flat.split([v.numel() for v in values]), strict=True):
            value.copy_(part.view_as(value))

    def as_first(self, value: float) -> float:
        """The first process's value, so that all decide alike."""
        if self.count == 1:
            return value
        nccl = dist.get_backend() == "nccl"
        told = torch.tensor(value, dtype=torch.float64, device="cuda" if nccl else "cpu")
        dist.broadcast(told, src=0)
        return told.item()


def ranks() -> Ranks:
    """The processes that have met, in torch's default process group."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def join(device: str) -> Ranks:
    """Meet the other processes that `accelerate launch` or `torchrun` started, if there are any.

    Call it before the model is loaded: from then on "auto" and "cuda" are this process's own GPU.

    Args:
        device: that the model is to run on, as for `load_model`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(state.destroy_process_group)
    return ranks()
