"""L_Distill (eq. 1) and the head's loss (DeSTSeg)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Total = Callable[[Tensor], Tensor]
"""Adds a count over all ranks, without gradients."""


def own(value: Tensor) -> Tensor:
    """Return a count as it is: there is one rank."""
    return value.detach()


def cosine_maps(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """Return 1 - cos over channels for each level: (N, h_l, w_l) float32 from (N, C_l, h_l, w_l)."""
    return [1 - functional.cosine_similarity(t.float(), s.float(), dim=1) for t, s in zip(teacher, student, strict=True)]


def shrink(weight: Tensor, like: Tensor) -> Tensor:
    """Average weights (N, K, S, S) down to the last two sizes of another tensor."""
    return functional.adaptive_avg_pool2d(weight, (like.shape[-2], like.shape[-1]))


def distillation_loss(maps: Sequence[Tensor], weight: Tensor, views: int = 1, total: Total = own) -> Tensor:
    """Return eq. 1: the mean over samples and pixels, added over views and levels (loss.reduction = mean).

    Parameters
    ----------
    maps
        (N, h_l, w_l) of each level; N counts samples and views.
    weight
        (N, S, S) float32, 1 where a pixel counts; it is averaged down to each level.
    views
        How many views the N images show.
    total
        Adds counts over ranks; each rank's loss is its share, and the loss is their sum.
    """
    loss = weight.new_zeros(())
    for level in maps:
        counts = shrink(weight[:, None], level)[:, 0]
        loss = loss + views * (level * counts).sum() / total(counts.sum()).clamp(min=1)
    return loss


def summed_distillation_loss(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return DeSTSeg's: added over images, mean over pixels, added over levels (loss.reduction = destseg)."""
    loss = weight.new_zeros(())
    for level in maps:
        counts = shrink(weight[:, None], level)[:, 0]
        loss = loss + (level * counts).sum() / level[0].numel()
    return loss


def head_loss(logits: Tensor, mask: Tensor, weight: Tensor, gamma: float, total: Total = own) -> Tensor:
    """Return focal (no alpha, mean) plus L1, both over the pixels that count.

    Parameters
    ----------
    logits
        (N, h, w).
    mask, weight
        (N, S, S) float32; the mask is resized bilinearly and thresholded at 0.5, as DeSTSeg does.
    gamma
        Of the focal loss.
    total
        Adds counts over ranks.
    """
    size = logits.shape[-2:]
    target = (functional.interpolate(mask[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0.5).float()
    counts = shrink(weight[:, None], logits)[:, 0]
    logits = logits.float()
    probability = torch.sigmoid(logits)
    of_truth = torch.where(target > 0, probability, 1 - probability)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixelwise = (1 - of_truth) ** gamma * entropy + (probability - target).abs()
    return (pixelwise * counts).sum() / total(counts.sum()).clamp(min=1)
