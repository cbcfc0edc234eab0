"""One training run on several processes, each with the whole model and a share of the prompts.

The loss compares a whole batch with the target, coordinate by coordinate after a sort, so it is
not a sum over prompts. Every rank r therefore gathers the pooled activations Z of all ranks and
computes the same loss L from them. Its backward pass runs through its own rows Z_r only:

    dL/dtheta = sum over r of  dL/dZ_r  dZ_r/dtheta

Each rank computes its term without communication, so the gradients summed over the ranks equal
those of a single process, without a scale factor.

Rows are distributed round-robin: rank r takes rows r, r + ranks, r + 2 ranks, and so on.
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
from lineas_core.training.rows import Rows


@dataclass(frozen=True)
class Ranks:
    """This process's rank, and the number of processes. A single process does not communicate.

    Attributes:
        index: rank of this process, from 0.
        count: number of processes.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True in the process that writes the files."""
        return self.index == 0

    def share(self, rows: Rows) -> Rows:
        """The rows that this process runs; shares differ by at most one row.

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
        """Gather the rows of all processes in their original order.

        Gradients flow through this process's own rows only.

        Args:
            own: activations of this process's share of the rows.
            count: number of rows in all shares.
        """
        if self.count == 1:
            return own
        # Collectives need the same shape on every rank. The padding ends up after all rows.
        size = -(-count // self.count)
        padded = own.new_zeros(size, own.shape[1])
        padded[: len(own)] = own.detach()
        by_rank = own.new_empty(self.count * size, own.shape[1])
        dist.all_gather_into_tensor(by_rank, padded)
        in_order = by_rank.view(self.count, size, -1).transpose(0, 1).flatten(0, 1)
        in_order[self.index : count : self.count] = own
        return in_order[:count]

    @torch.no_grad()
    def sum(self, values: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in place."""
        if self.count == 1:
            return
        # One collective for all tensors: each call has a fixed cost, however small the tensor.
        flat = torch.cat([value.flatten() for value in values])
        dist.all_reduce(flat)
        for value, part in zip(values, flat.split([v.numel() for v in values]), strict=True):
            value.copy_(part.view_as(value))

    @torch.no_grad()
    def from_first(self, value: Tensor) -> Tensor:
        """The first process's tensor, so that all processes go on with the same one."""
        if self.count > 1:
            dist.broadcast(value, src=0)
        return value

    def as_first(self, value: float) -> float:
        """The first process's value, so that all processes take the same decision."""
        if self.count == 1:
            return value
        nccl = dist.get_backend() == "nccl"
        shared = torch.tensor(value, dtype=torch.float64, device="cuda" if nccl else "cpu")
        dist.broadcast(shared, src=0)
        return shared.item()


def ranks() -> Ranks:
    """The ranks of torch's default process group; a single one if it is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def join(device: str) -> Ranks:
    """Initialise the process group if started by `accelerate launch` or `torchrun`.

    Call it before loading the model: afterwards "auto" and "cuda" mean this process's own GPU.

    Args:
        device: the model's device, as for `load_model`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(state.destroy_process_group)
    return ranks()
