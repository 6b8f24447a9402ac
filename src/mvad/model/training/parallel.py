"""Training by several processes (torchrun), each on a part of every batch, with the result of a single process.

Sums over a batch (losses, batch statistics, gradients) are taken over all ranks, and each rank draws the random numbers of
the whole batch, so that the number of ranks changes results by rounding only. Works with gloo, too, which torch's
synchronised batch norm does not support.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from mvad.errors import BadInput
from mvad.model.training.weights import UncountedBatchNorm2d


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process among those that train together, and the number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's rows of a tensor with one row per sample of the whole batch."""
        count = len(whole) // self.size
        return whole[self.rank * count : (self.rank + 1) * count]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over ranks, without gradients; of a tensor on the host by gloo, which waits for no GPU."""
        if self.alone:
            return value.detach()
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over ranks in one message; a parameter that no rank used keeps gradient None."""
        if self.alone:
            return
        chosen = list(parameters)
        used = self.total(torch.tensor([float(p.grad is not None) for p in chosen]))  # of the host: nothing waits for a GPU
        chosen = [p for p, ranks in zip(chosen, used.tolist(), strict=True) if ranks]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in chosen])
        dist.all_reduce(flat)
        for p, part in zip(chosen, torch.split(flat, [p.numel() for p in chosen]), strict=True):
            p.grad = part.view_as(p).to(p.dtype)

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if not self.alone:
            dist.barrier()


def join_process_group() -> ProcessGroup:
    """Connect to the process group that torchrun describes in the environment; without torchrun, return a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= cards:
                raise BadInput(f"torchrun: {local + 1} or more processes for {cards} CUDA devices; give --nproc-per-node {cards}")
            torch.cuda.set_device(local)
        # Some sums are of tensors on the processor (whether a rank was asked to stop), so both backends are needed.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return ProcessGroup(dist.get_rank(), size)


def leave_process_group() -> None:
    """Disconnect from the process group, if connected."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are taken over the images of all ranks, or running ones for one value per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        x32 = x.float()
        count = x32.new_tensor(float(x.numel() // x.shape[1]))
        local_sums = torch.cat([x32.sum(dim=(0, 2, 3)), (x32 * x32).sum(dim=(0, 2, 3)), count[None]])
        sums: Tensor = all_reduce(local_sums)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        n = sums[-1]
        mean, square = (part / n for part in sums[:-1].chunk(2))
        variance = (square - mean * mean).clamp(min=0)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            known = (self.running_mean.clone(), self.running_var.clone())
            several = n > 1
            self.running_mean.lerp_(torch.where(several, mean.detach(), known[0]), momentum)
            self.running_var.lerp_(torch.where(several, variance.detach() * n / (n - 1), known[1]), momentum)
        mean, variance = torch.where(several, mean, known[0]), torch.where(several, variance, known[1])
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.weight * scale
        shift = (self.bias if self.affine else 0) - mean * scale
        out: Tensor = x32 * scale[:, None, None] + shift[:, None, None]
        return out.to(x.dtype)


def share_batch_norms(module: nn.Module) -> None:
    """Replace each batch norm in a module by ``SharedBatchNorm2d``; weights and names stay."""
    for child in module.modules():
        if type(child) in (nn.BatchNorm2d, UncountedBatchNorm2d):
            child.__class__ = SharedBatchNorm2d
