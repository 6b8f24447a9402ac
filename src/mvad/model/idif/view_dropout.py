"""View-wise Dropout (eq. 11): which views a student step sees."""

from __future__ import annotations

import torch
from torch import Tensor

from mvad.model.idif.config import DropoutConfig
from mvad.model.training.parallel import ProcessGroup


def draw_present(present: Tensor, config: DropoutConfig, generator: torch.Generator, ranks: ProcessGroup | None = None) -> Tensor:
    """Drop each view with probability ``dropout.p``; never all views of a sample.

    Parameters
    ----------
    present
        (B, V) bool, what the data have; this rank's part of the batch.
    config
        One draw for all samples, or one each.
    generator
        Of the step; numbers are drawn for the samples of all ranks.

    Returns
    -------
    Tensor
        (B, V) bool. A sample that would lose its last view keeps all it has.
    """
    ranks = ranks or ProcessGroup()
    samples, views = present.shape
    rows = samples * ranks.size if config.draw == "sample" else 1
    kept = torch.rand(rows, views, generator=generator) >= config.p
    spare = torch.randint(views, (rows,), generator=generator)
    lonely = (~kept.any(dim=1)).nonzero()[:, 0]
    kept[lonely, spare[lonely]] = True
    if config.draw == "sample":
        kept = ranks.part(kept)
    dropped = present & kept.to(present.device)
    return torch.where(dropped.any(dim=1, keepdim=True), dropped, present)
