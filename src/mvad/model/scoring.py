"""Maps and scores of views and samples from the maps of inputs, the same for all methods (``score.*``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mvad.model.config import ScoreConfig
from mvad.model.detector import AnomalyMaps
from mvad.model.devices import constant, fetched
from mvad.model.images import ViewImages
from mvad.model.score_scale import ScoreScale

SAMPLE_RULES = ("max", "top2", "mean")
"""Values of ``score.sample``."""

_REFERENCE_SIDE = 256
_REFERENCE_PIXELS = _REFERENCE_SIDE**2


def finish_maps(
    maps: Tensor, views: ViewImages, config: ScoreConfig, scores: Tensor | None = None, scale: ScoreScale | None = None,
    groups: int = 1,
) -> AnomalyMaps:  # fmt: skip
    """Return the maps and scores of samples from one map per view and modality.

    Scores and maps are brought to one scale (``score.scale``), the modalities of a view are added or compared
    (``score.modalities``), and the scores of the present views are combined into the sample's score (``score.sample``). Some
    pixels do not count: those of missing views, and those off the object unless ``score.region`` is ``image``. They get the
    lowest value of their sample, whatever the method's scale is: a constant that is added to all maps and scores changes no
    figure. A view in which no pixel counts has no score, like a missing view, unless no pixel counts in any view of the sample.

    Parameters
    ----------
    maps
        (B, V, M, S, S) float32; higher is more anomalous.
    views
        The samples: outlines, and which views are present.
    config
        The keys ``score.*``.
    scores
        (B, V, M) float32, image scores, if the method computes its own; None: those of ``counted_scores``.
    scale
        The detector's scale (``Detector.scale``); None: raw scores and maps are combined.
    groups
        Number of methods whose modalities are concatenated along M.

    Examples
    --------
    >>> seen, present = torch.ones(1, 2, 8, 8, dtype=torch.bool), torch.tensor([[True, False]])
    >>> views = ViewImages(torch.zeros(1, 2, 1, 3, 8, 8), seen, present)
    >>> finish_maps(torch.ones(1, 2, 1, 8, 8), views, ScoreConfig()).view_scores
    tensor([[1., -inf]])
    """
    counts = counted(views, config).to(maps.device)
    if scores is None:
        scores = counted_scores(maps, counts, config)
    present = views.present_on_device()
    shown = present & counts.flatten(2).any(dim=2)
    raw = scores.masked_fill(~shown[:, :, None], -torch.inf)
    shown = shown | (present & ~shown.any(dim=1, keepdim=True))
    if scale is not None:
        maps, scores = scale.of_maps(maps), scale.of_scores(scores)
    combined = fill_uncounted(over_modalities(maps, config, scale, groups)[:, :, None], counts)[:, :, 0]
    view_scores = over_modalities(scores, config, scale, groups).masked_fill(~shown, -torch.inf)
    return AnomalyMaps(*fetched([combined, view_scores, sample_scores(view_scores, config), raw]))


def over_modalities(values: Tensor, config: ScoreConfig, scale: ScoreScale | None, groups: int = 1) -> Tensor:
    """Return the weighted sum or the maximum (B, V, ...) over the modalities of values (B, V, M, ...) (``score.modalities``).

    Of several groups of modalities, one for each method, the maxima are averaged.
    """
    if values.shape[2] == 1:
        return values[:, :, 0]
    if config.modalities == "max":
        return torch.stack([part.amax(dim=2) for part in values.chunk(groups, dim=2)]).mean(dim=0)
    count = values.shape[2]
    weights = constant((1 / count,) * count, values.device) if scale is None else scale.to(values.device).weights
    return (values * weights.to(values).view(count, *(1 for _ in values.shape[3:]))).sum(dim=2)


def counted(views: ViewImages, config: ScoreConfig) -> Tensor:
    """Return which pixels (B, V, S, S) bool count: those of present views, on the object unless ``score.region`` is ``image``."""
    seen = views.seen if config.region == "object" else torch.ones_like(views.seen)
    return seen if bool(views.present.all()) else seen & views.present_on_device()[:, :, None, None]


def fill_uncounted(maps: Tensor, counts: Tensor) -> Tensor:
    """Return maps (B, V, M, S, S) with the lowest counted value of each sample where ``counts`` (B, V, S, S) is false."""
    counts = counts[:, :, None]
    lowest = maps.masked_fill(~counts, torch.inf).amin(dim=(1, 2, 3, 4), keepdim=True)
    return torch.where(counts, maps, torch.where(torch.isinf(lowest), 0.0, lowest))


def counted_scores(maps: Tensor, counts: Tensor, config: ScoreConfig) -> Tensor:
    """Return ``image_scores`` (B, V, M) over the counted pixels of maps (B, V, M, S, S); counts (B, V, S, S)."""
    return image_scores(fill_uncounted(maps, counts), config)


def highest(maps: Tensor, counts: Tensor) -> Tensor:
    """Return the highest counted value (B, V, M) of maps (B, V, M, S, S); counts (B, V, S, S)."""
    return fill_uncounted(maps, counts).amax(dim=(-2, -1))


def smooth(maps: Tensor, seen: Tensor, config: ScoreConfig) -> Tensor:
    """Average maps (..., S, S) over windows of ``score.pool_px`` of 256 pixels a side, over pixels on the object only; 0 elsewhere."""
    counts = seen.float() if config.region == "object" else torch.ones_like(maps)
    side = pooled_side(config.pool_px, int(maps.shape[-1]))
    if side > 1:
        flat, weight = (x.reshape(-1, 1, *maps.shape[-2:]) for x in (maps * counts, counts.expand_as(maps)))
        total = functional.avg_pool2d(flat, side, 1, side // 2, count_include_pad=False)
        share = functional.avg_pool2d(weight, side, 1, side // 2, count_include_pad=False)
        maps = (total / share.clamp(min=1e-6)).reshape(maps.shape)
    return maps * counts


def pooled_side(pool_px: int, size: int) -> int:
    """Return the odd number of pixels that a window of ``pool_px`` of 256 pixels has in maps of ``size`` pixels.

    Examples
    --------
    >>> [pooled_side(5, size) for size in (512, 256, 128, 64)]
    [11, 5, 3, 1]
    """
    return 2 * max(0, math.floor((pool_px * size / _REFERENCE_SIDE - 1) / 2 + 0.5)) + 1


def image_scores(maps: Tensor, config: ScoreConfig) -> Tensor:
    """Return the means (...) of the highest pixels of maps (..., S, S): ``score.top_k`` of 256 x 256, scaled with the area."""
    flat = maps.flatten(-2)
    top = max(1, round(config.top_k * int(flat.shape[-1]) / _REFERENCE_PIXELS))
    return flat.topk(top, dim=-1).values.mean(dim=-1)


def sample_scores(view_scores: Tensor, config: ScoreConfig) -> Tensor:
    """Return sample scores (B,) from view scores (B, V), which are -inf where a view is missing (``score.sample``)."""
    return over_views(view_scores, config.sample)


def over_views(view_scores: Tensor, rule: str) -> Tensor:
    """Return sample scores (B,) from view scores (B, V), -inf where a view is missing, by a rule; -inf for a sample without views.

    Parameters
    ----------
    view_scores
        Float.
    rule
        ``max``; ``top2``: the mean of the two highest, or the highest where one view is present; ``mean``: over present views.

    Examples
    --------
    >>> scores = torch.tensor([[3.0, 1.0, 2.0], [-torch.inf, 4.0, -torch.inf]])
    >>> [over_views(scores, rule).tolist() for rule in ("max", "top2", "mean")]
    [[3.0, 4.0], [2.5, 4.0], [2.0, 4.0]]
    """
    if rule == "max":
        return view_scores.amax(dim=1)
    if rule == "top2":
        view_scores = view_scores.topk(min(2, view_scores.shape[1]), dim=1).values
    finite = torch.isfinite(view_scores)
    mean = view_scores.masked_fill(~finite, 0).sum(dim=1) / finite.sum(dim=1).clamp(min=1)
    return mean.masked_fill(~finite.any(dim=1), -torch.inf)
