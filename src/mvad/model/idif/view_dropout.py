"""View-wise Dropout (eq. 11): random subsets of the views in a student step."""

from __future__ import annotations

import torch
from torch import Tensor

from mvad.model.idif.training_config import DropoutConfig
from mvad.model.training.parallel import ProcessGroup


def draw_present(present: Tensor, config: DropoutConfig, generator: torch.Generator, ranks: ProcessGroup | None = None) -> Tensor:
    """Drop each view with probability ``dropout.p``; never all views of a sample.

    Parameters
    ----------
    present
        (B, V) bool, the views that the data have; this rank's part of the batch.
    config
        Probability, and whether one subset is drawn for all samples or one per sample.
    generator
        Random generator of the step; numbers are drawn for the samples of all ranks.
    ranks
        The processes that train together; default: this process alone.

    Returns
    -------
    Tensor
        (B, V) bool, the remaining views. A sample that would lose its last view keeps all its views.
    """
    ranks = ranks or ProcessGroup()
    samples, views = present.shape
    rows = samples * ranks.size if config.draw == "sample" else 1
    kept = torch.rand(rows, views, generator=generator) >= config.p
    fallback = torch.randint(views, (rows,), generator=generator)
    empty = (~kept.any(dim=1)).nonzero()[:, 0]
    kept[empty, fallback[empty]] = True
    if config.draw == "sample":
        kept = ranks.part(kept)
    remaining = present & kept.to(present.device)
    return torch.where(remaining.any(dim=1, keepdim=True), remaining, present)
