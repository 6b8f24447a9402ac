"""Optimizers of the student and of the head (``optimizer.*``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from mvad.model.idif.head import Heads, SegmentationHead
from mvad.model.idif.network import Network
from mvad.model.idif.training_config import OptimizerConfig
from mvad.model.training.optimizers import Optimizers, Schedule, groups


def student_optimizers(network: Network, config: OptimizerConfig, encoder_scale: float, steps: int) -> Optimizers:
    """Return the optimizers of the student for a phase of ``steps`` steps."""
    backbone = list(network.encoder.backbones.parameters())
    if config.kind == "adamw":
        backbone_ids = set(map(id, backbone))
        rest = [p for p in network.parameters() if id(p) not in backbone_ids]
        lr = config.student_lr
        return _one_cycle([(backbone, lr * encoder_scale), (rest, lr)], config, steps)
    convolutions = [*network.encoder.parameters(), *network.decoders.parameters()]
    convolution_ids = set(map(id, convolutions))
    others = [p for p in network.parameters() if id(p) not in convolution_ids]
    sgd = torch.optim.SGD(groups([(convolutions, config.student_lr)]), momentum=0.9, weight_decay=config.weight_decay)
    parts: list[tuple[torch.optim.Optimizer, Schedule]] = [(sgd, lambda k: 1.0)]
    if others:
        adam = torch.optim.AdamW(groups([(others, config.attention_lr)]), weight_decay=config.weight_decay)
        parts.append((adam, lambda k: min(1.0, (k + 1) / max(1, config.warmup_steps))))
    return Optimizers(parts, config.clip_norm)


def head_optimizers(head: Heads, config: OptimizerConfig, steps: int) -> Optimizers:
    """Return the optimizers of the segmentation heads for a phase of ``steps`` steps."""
    if config.kind == "adamw":
        return _one_cycle([(list(head.parameters()), config.head_lr)], config, steps)
    residual = [p for one in head.per_input if isinstance(one, SegmentationHead) for p in one.residual.parameters()]
    residual_ids = set(map(id, residual))
    rest = [p for p in head.parameters() if id(p) not in residual_ids]
    parameter_groups = groups([(residual, config.head_residual_lr), (rest, config.head_lr)])
    sgd = torch.optim.SGD(parameter_groups, momentum=0.9, weight_decay=config.weight_decay)
    return Optimizers([(sgd, lambda k: 1.0)], config.clip_norm)


def _one_cycle(parts: Sequence[tuple[list[nn.Parameter], float]], config: OptimizerConfig, steps: int) -> Optimizers:
    def schedule(k: int) -> float:
        rise = max(1, round(0.15 * steps))
        if k < rise:
            return (k + 1) / rise
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (k - rise) / max(1, steps - rise)))

    return Optimizers([(torch.optim.AdamW(groups(parts), weight_decay=config.weight_decay), schedule)], config.clip_norm)
