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

    Optimizers of parameters on a GPU are made fused: they must be of torch's kinds that can be.
    """

    parts: Sequence[tuple[torch.optim.Optimizer, Schedule]]
    clip_norm: float = math.inf

    def __post_init__(self) -> None:
        for optimizer, _ in self.parts:
            for group in optimizer.param_groups:
                if any(p.is_cuda for p in group["params"]):
                    group["fused"], group["foreach"] = True, False

    def step(self, loss: Tensor, k: int, ranks: ProcessGroup = ProcessGroup()) -> Tensor:  # frozen
        """Perform step ``k`` on the gradient of ``loss`` (0-d), summed over ranks; return that sum, on the device."""
        self.zero()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self.apply(ranks.total(loss), k, ranks)

    def zero(self) -> None:
        """Forget the gradients of the step before."""
        for optimizer, _ in self.parts:
            optimizer.zero_grad(set_to_none=True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are trained."""
        groups_of_all = (group for optimizer, _ in self.parts for group in optimizer.param_groups)
        return [p for group in groups_of_all for p in group["params"] if p.requires_grad]

    def apply(self, loss: Tensor, k: int, ranks: ProcessGroup = ProcessGroup()) -> Tensor:  # frozen
        """Perform step ``k`` by the gradients that the parameters have; return the loss (0-d), on the device.

        If the loss or a gradient is not finite, no parameter is changed, and nan is returned for the latter. On a GPU the device
        itself leaves them, so that nothing waits for the loss.
        """
        on_device = loss.device.type != "cpu"
        if not on_device and not bool(torch.isfinite(loss)):
            return loss
        used = []
        for optimizer, schedule in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * schedule(k)
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            ranks.sum_gradients(parameters)
            used.append([p for p in parameters if p.grad is not None])
        if on_device:
            loss = self._guarded(used, loss)
        else:
            norms = [nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]) for parameters in used]
            if not all(bool(torch.isfinite(norm)) for norm in norms):
                return loss.new_full((), math.nan)
            for parameters, norm in zip(used, norms, strict=True) if math.isfinite(self.clip_norm) else ():
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        for optimizer, _ in self.parts:
            optimizer.step()
        return loss

    def _guarded(self, used: Sequence[Sequence[nn.Parameter]], loss: Tensor) -> Tensor:
        """Have fused optimizers clip gradients as they read them, and skip the step unless loss and gradients are finite.

        Returns the loss, or nan where a gradient is not finite.
        """
        for (optimizer, _), parameters in zip(self.parts, used, strict=True):
            for p in parameters:  # torch expects that either all parameters have a momentum or none; zero is what it begins with
                if isinstance(optimizer, torch.optim.SGD) and not optimizer.state[p]:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if parameters:
                norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                loss = loss + (norm - norm)
                clips = math.isfinite(self.clip_norm)
                optimizer.grad_scale = (norm / self.clip_norm).clamp(min=1) if clips else None  # type: ignore[attr-defined]
        skips = (loss - loss).ne(0).float()  # inf - inf is nan, which is not 0
        for optimizer, _ in self.parts:
            optimizer.found_inf = skips  # type: ignore[attr-defined]  # read by fused optimizers
        return loss

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
