"""View-wise Dropout (eq. 11): which views a student step sees, one mask for the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_present(present: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Drop each view with probability ``p``, the same views for all samples; never all views of a sample.

    Parameters
    ----------
    present
        (B, V) bool, what the data have.
    p
        Probability of dropping a view.

    Returns
    -------
    Tensor
        (B, V) bool. A sample that would lose its last view keeps all it has.
    """
    views = present.shape[1]
    kept = torch.rand(views, generator=generator) >= p
    if not kept.any():
        kept[int(torch.randint(views, (1,), generator=generator))] = True
    dropped = present & kept.to(present.device)
    return torch.where(dropped.any(dim=1, keepdim=True), dropped, present)
