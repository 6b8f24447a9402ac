"""Protocol of fillers, which substitute missing views."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from mvad.model.idif.extended import Part
from mvad.model.images import ViewImages


class Filler(Part, Protocol):
    """Substitutes missing views."""

    def fill(self, views: ViewImages) -> ViewImages:
        """Return the samples with all views present; the views that were present before are unchanged."""


def completed(views: ViewImages, images: Tensor, seen: Tensor) -> ViewImages:
    """Return views in which missing ones have the given images (B, V, M, 3, S, S) and outlines (B, V, S, S)."""
    present = views.present_on_device()[:, :, None, None]
    filled = torch.where(present[:, :, None, None], views.images, images.to(views.images))
    return replace(
        views,
        images=filled,
        seen=torch.where(present, views.seen, seen.to(views.seen.device)),
        present=torch.ones_like(views.present),
    )
