"""From per-input maps to per-view maps and scores, for every detector alike (score.* choices)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mvad.model.config import ScoreConfig
from mvad.model.detector import AnomalyMaps

_REFERENCE_PIXELS = 256 * 256


def smooth(maps: Tensor, seen: Tensor, config: ScoreConfig) -> Tensor:
    """Average maps (..., S, S) over ``score.pool_px`` pixels, of those that show the object only; 0 elsewhere."""
    counts = seen.float() if config.region == "object" else torch.ones_like(maps)
    if config.pool_px > 1:
        flat, weight = (x.reshape(-1, 1, *maps.shape[-2:]) for x in (maps * counts, counts.expand_as(maps)))
        total = functional.avg_pool2d(flat, config.pool_px, 1, config.pool_px // 2, count_include_pad=False)
        share = functional.avg_pool2d(weight, config.pool_px, 1, config.pool_px // 2, count_include_pad=False)
        maps = (total / share.clamp(min=1e-6)).reshape(maps.shape)
    return maps * counts


def image_scores(maps: Tensor, config: ScoreConfig) -> Tensor:
    """Return the mean of the highest pixels of (..., S, S): ``score.top_k`` at 256 x 256, in proportion elsewhere."""
    flat = maps.flatten(-2)
    top = max(1, round(config.top_k * int(flat.shape[-1]) / _REFERENCE_PIXELS))
    return flat.topk(top, dim=-1).values.mean(dim=-1)


def score_maps(maps: Tensor, seen: Tensor, present: Tensor, config: ScoreConfig) -> AnomalyMaps:
    """Score views and samples of maps (B, V, M, S, S).

    A view's score is that of its worst modality, a sample's that of its worst present view (score.sample). Pixels that do not
    count get the lowest value of their sample.
    """
    scores = image_scores(maps, config).amax(dim=2)
    scores = torch.where(present, scores, torch.full((), -torch.inf, device=maps.device))
    joined = maps.amax(dim=2)
    if config.region == "object":
        there = joined.masked_fill(~present[:, :, None, None], torch.inf)
        lowest = there.amin(dim=(1, 2, 3), keepdim=True)
        joined = torch.where(seen, joined, lowest)
    return AnomalyMaps(joined * present[:, :, None, None], scores, sample_scores(scores, config))


def sample_scores(view_scores: Tensor, config: ScoreConfig) -> Tensor:
    """Return (B,) of view scores (B, V), which are -inf where a view is missing."""
    if config.sample == "max":
        return view_scores.amax(dim=1)
    there = torch.isfinite(view_scores)
    return view_scores.masked_fill(~there, 0).sum(dim=1) / there.sum(dim=1)
