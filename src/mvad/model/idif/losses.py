"""The distillation loss L_Distill (eq. 1) and the loss of the segmentation head (DeSTSeg)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_LENGTH = 1e-8

Total = Callable[[Tensor], Tensor]
"""Sums a count over all ranks, without gradients."""


def total_of_one_rank(value: Tensor) -> Tensor:
    """Return the count itself, without gradients: the total where there is a single rank."""
    return value.detach()


def cosine_maps(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """Return 1 - cos over channels for each level: (N, h_l, w_l) float32 from (N, C_l, h_l, w_l).

    Only the student's features get a gradient.
    """
    return [
        CosineMap.apply(t, s)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if s.requires_grad
        else 1 - functional.cosine_similarity(t.float(), s.float(), dim=1)
        for t, s in zip(teacher, student, strict=True)
    ]


class CosineMap(torch.autograd.Function):
    """1 - cos over channels, with the gradient in closed form: d cos / d s = t / (|t| |s|) - cos s / |s|^2.

    It takes a half of the passes over the features that torch's own gradient takes.
    """

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor) -> Tensor:
        """(N, C, h, w) of both to (N, h, w) float32."""
        lengths = torch.linalg.vector_norm(student, dim=1, dtype=torch.float32).clamp(min=_LEAST_LENGTH)
        of_teacher = torch.linalg.vector_norm(teacher, dim=1, dtype=torch.float32).clamp(min=_LEAST_LENGTH)
        both = lengths * of_teacher
        cosine = (teacher.float() * student).sum(dim=1) / both
        ctx.save_for_backward(teacher, student, lengths, both, cosine)
        out: Tensor = 1 - cosine
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Return no gradient for the teacher, and the student's (N, C, h, w) in its dtype."""
        teacher, student, lengths, both, cosine = ctx.saved_tensors
        along_student, along_teacher = gradients[0] * cosine / lengths**2, gradients[0] / both
        gradient = along_student[:, None] * student - along_teacher[:, None] * teacher
        return None, gradient.to(student.dtype)


def shrink(weight: Tensor, like: Tensor) -> Tensor:
    """Average weights (N, K, S, S) down to the last two dimensions of ``like``."""
    return functional.adaptive_avg_pool2d(weight, (like.shape[-2], like.shape[-1]))


def distillation_loss(maps: Sequence[Tensor], weight: Tensor, views: int = 1, total: Total = total_of_one_rank) -> Tensor:
    """Return eq. 1: the mean over samples and pixels, summed over views and levels (``loss.reduction = mean``).

    Parameters
    ----------
    maps
        (N, h_l, w_l) float32 of each level; N counts samples times views.
    weight
        (N, S, S) float32, 1 where a pixel is included; it is averaged down to each level.
    views
        Number of different views among the N images.
    total
        Sums counts over ranks; each rank returns its share, and the loss is the sum of the shares.
    """
    counts = [shrink(weight[:, None], level)[:, 0] for level in maps]
    sums = torch.stack([torch.dot(level.flatten(), count.flatten()) for level, count in zip(maps, counts, strict=True)])
    totals = total(torch.stack([count.sum() for count in counts])).clamp(min=1)
    return views * (sums / totals).sum()


def summed_distillation_loss(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return DeSTSeg's loss: summed over images, mean over pixels, summed over levels (``loss.reduction = destseg``)."""
    loss = weight.new_zeros(())
    for level in maps:
        counts = shrink(weight[:, None], level)[:, 0]
        loss = loss + (level * counts).sum() / level[0].numel()
    return loss


def head_loss(
    logits: Tensor, mask: Tensor, weight: Tensor, gamma: float, total: Total = total_of_one_rank, half_counts: bool = True
) -> Tensor:
    """Return the focal loss (no alpha) plus the L1 loss, both the weighted mean over pixels.

    Parameters
    ----------
    logits
        (N, h, w), before the sigmoid.
    mask, weight
        (N, S, S) float32, 1 on the defect, and 1 where a pixel is included; the mask is resized bilinearly and thresholded at
        0.5, as DeSTSeg does.
    half_counts
        Whether a cell of exactly 0.5 is one of the defect, as in DeSTSeg's code: one in six of its cells. A quarter of the size is
        the mean of four pixels.
    gamma
        Exponent of the focal loss.
    total
        Sums counts over ranks; see ``distillation_loss``.
    """
    size = logits.shape[-2:]
    covered = functional.interpolate(mask[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    target = (covered >= 0.5 if half_counts else covered > 0.5).float()
    counts = shrink(weight[:, None], logits)[:, 0]
    logits = logits.float()
    probability = torch.sigmoid(logits)
    of_truth = torch.where(target > 0, probability, 1 - probability)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixelwise = (1 - of_truth) ** gamma * entropy + (probability - target).abs()
    return (pixelwise * counts).sum() / total(counts.sum()).clamp(min=1)
