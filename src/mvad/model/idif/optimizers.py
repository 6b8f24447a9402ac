"""How the student's and the head's weights move (optimizer.* choices)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvad.model.config import OptimizerConfig
from mvad.model.idif.head import Heads, SegmentationHead
from mvad.model.idif.network import Network
from mvad.model.training.checkpoint import pack_optimizer, unpack_optimizer
from mvad.model.training.parallel import ProcessGroup

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Optimizers:
    """Optimizers that step together; the learning rate is a function of the step alone."""

    parts: Sequence[tuple[torch.optim.Optimizer, Schedule]]
    clip_norm: float

    def step(self, loss: Tensor, k: int, ranks: ProcessGroup) -> float:
        """Take step ``k`` down the gradient of ``loss``, added over ranks; returns that sum.

        A loss that is not finite changes nothing.
        """
        whole = float(ranks.total(loss))
        for optimizer, schedule in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * schedule(k)
            optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(whole):
            return whole
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for optimizer, _ in self.parts:
            every = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            ranks.sum_gradients(every)
            nn.utils.clip_grad_norm_([p for p in every if p.grad is not None], self.clip_norm)
            optimizer.step()
        return whole

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


def student_optimizers(network: Network, config: OptimizerConfig, encoder_scale: float, steps: int) -> Optimizers:
    """Return what trains the student."""
    backbone = list(network.encoder.backbones.parameters())
    if config.kind == "adamw":
        of_backbone = set(map(id, backbone))
        rest = [p for p in network.parameters() if id(p) not in of_backbone]
        lr = config.student_lr
        return _one_cycle([(backbone, lr * encoder_scale), (rest, lr)], config, steps)
    convolutions = [*network.encoder.parameters(), *network.decoders.parameters()]
    of_convolutions = set(map(id, convolutions))
    others = [p for p in network.parameters() if id(p) not in of_convolutions]
    sgd = torch.optim.SGD(_groups([(convolutions, config.student_lr)]), momentum=0.9, weight_decay=config.weight_decay)
    parts: list[tuple[torch.optim.Optimizer, Schedule]] = [(sgd, lambda k: 1.0)]
    if others:
        adam = torch.optim.AdamW(_groups([(others, config.attention_lr)]), weight_decay=config.weight_decay)
        parts.append((adam, lambda k: min(1.0, (k + 1) / config.warmup_steps)))
    return Optimizers(parts, config.clip_norm)


def head_optimizers(head: Heads, config: OptimizerConfig, steps: int) -> Optimizers:
    """Return what trains the segmentation heads."""
    if config.kind == "adamw":
        return _one_cycle([(list(head.parameters()), config.head_lr)], config, steps)
    residual = [p for one in head.of if isinstance(one, SegmentationHead) for p in one.residual.parameters()]
    of_residual = set(map(id, residual))
    rest = [p for p in head.parameters() if id(p) not in of_residual]
    groups = _groups([(residual, config.head_residual_lr), (rest, config.head_lr)])
    sgd = torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    return Optimizers([(sgd, lambda k: 1.0)], config.clip_norm)


def _one_cycle(parts: Sequence[tuple[list[nn.Parameter], float]], config: OptimizerConfig, steps: int) -> Optimizers:
    def schedule(k: int) -> float:
        rise = max(1, round(0.15 * steps))
        if k < rise:
            return (k + 1) / rise
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (k - rise) / max(1, steps - rise)))

    return Optimizers([(torch.optim.AdamW(_groups(parts), weight_decay=config.weight_decay), schedule)], config.clip_norm)


def _groups(parts: Sequence[tuple[list[nn.Parameter], float]]) -> list[dict[str, object]]:
    return [{"params": parameters, "lr": lr, "base_lr": lr} for parameters, lr in parts]
