"""Optimizers that step together, with learning rates that are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvad.model.training.checkpoint import pack_optimizer, unpack_optimizer
from mvad.model.training.parallel import ProcessGroup

Schedule = Callable[[int], float]
"""Returns the factor on the base learning rate at step k."""


def constant(k: int) -> float:
    """Return 1 for a constant learning rate."""
    return 1.0


@dataclass(frozen=True)
class Optimizers:
    """Several optimizers with their schedules, used as one.

    Attributes
    ----------
    parts
        Optimizers with their schedules; parameter groups are made by ``groups``, which records the base learning rate.
    clip_norm
        Largest norm of each optimizer's gradient.
    """

    parts: Sequence[tuple[torch.optim.Optimizer, Schedule]]
    clip_norm: float = math.inf

    def step(self, loss: Tensor, k: int, ranks: ProcessGroup = ProcessGroup()) -> float:  # frozen
        """Perform step ``k`` on the gradient of ``loss``, summed over ranks; return that sum.

        If the sum is not finite, no parameter is changed.
        """
        total = float(ranks.total(loss))
        for optimizer, schedule in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * schedule(k)
            optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(total):
            return total
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for optimizer, _ in self.parts:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            ranks.sum_gradients(parameters)
            if math.isfinite(self.clip_norm):
                nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], self.clip_norm)
            optimizer.step()
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of all optimizers as named tensors."""
        return {
            name: tensor
            for number, (optimizer, _) in enumerate(self.parts)
            for name, tensor in pack_optimizer(f"optimizer{number}", optimizer).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        for number, (optimizer, _) in enumerate(self.parts):
            unpack_optimizer(f"optimizer{number}", optimizer, tensors)


def groups(parts: Sequence[tuple[Iterable[nn.Parameter], float]]) -> list[dict[str, object]]:
    """Return parameter groups for torch's optimizers from pairs (parameters, learning rate)."""
    return [{"params": list(parameters), "lr": lr, "base_lr": lr} for parameters, lr in parts]
