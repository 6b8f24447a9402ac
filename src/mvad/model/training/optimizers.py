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
"""From the step to the factor on the base learning rate."""


def constant(k: int) -> float:
    """Return 1: the learning rate stays."""
    return 1.0


@dataclass(frozen=True)
class Optimizers:
    """Optimizers that step together.

    Attributes
    ----------
    parts
        Each optimizer with its schedule; parameter groups are made by ``groups``, which records the base learning rate.
    clip_norm
        Largest norm of each optimizer's gradient.
    """

    parts: Sequence[tuple[torch.optim.Optimizer, Schedule]]
    clip_norm: float = math.inf

    def step(self, loss: Tensor, k: int, ranks: ProcessGroup = ProcessGroup()) -> float:  # frozen
        """Take step ``k`` down the gradient of ``loss``, added over ranks; returns that sum.

        A loss that is not finite changes nothing.
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
        """Return the state of all, named."""
        return {
            name: tensor
            for number, (optimizer, _) in enumerate(self.parts)
            for name, tensor in pack_optimizer(f"optimizer{number}", optimizer).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` returned."""
        for number, (optimizer, _) in enumerate(self.parts):
            unpack_optimizer(f"optimizer{number}", optimizer, tensors)


def groups(parts: Sequence[tuple[Iterable[nn.Parameter], float]]) -> list[dict[str, object]]:
    """Return parameter groups for torch's optimizers: (parameters, learning rate) each."""
    return [{"params": list(parameters), "lr": lr, "base_lr": lr} for parameters, lr in parts]
