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
        (B, V) bool on the host, the views that the data have; this rank's part of the batch.
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
    return remaining(present, draw_kept(samples, views, config, generator, ranks))


def draw_kept(samples: int, views: int, config: DropoutConfig, generator: torch.Generator, ranks: ProcessGroup) -> Tensor:
    """Draw which views (B or 1, V) bool are not dropped in a step, for this rank's ``samples`` samples."""
    rows = samples * ranks.size if config.draw == "sample" else 1
    kept = torch.rand(rows, views, generator=generator) >= config.p
    fallback = torch.randint(views, (rows,), generator=generator)
    empty = (~kept.any(dim=1)).nonzero()[:, 0]
    kept[empty, fallback[empty]] = True
    return ranks.part(kept) if config.draw == "sample" else kept


def remaining(present: Tensor, kept: Tensor) -> Tensor:
    """Return the views (B, V) bool that the data have and that are kept; a sample that would lose its last view keeps all."""
    left = present & kept
    return torch.where(left.any(dim=1, keepdim=True), left, present)
