"""One scale for the scores of views and modalities, estimated from normal samples that the detector was not fitted to.

The scale of few and heavy-tailed scores is itself uncertain: with mean and standard deviation of 23 samples, scores that were
comparable before are compared worse. So location and deviation are medians over pairs of samples, and each view is drawn
towards the mean of all views as far as the differences between views can be explained by chance (empirical Bayes). Where views
do not differ, what is left is the raw comparison.

Sources: Hodges and Lehmann 1963 (location), Shamos 1976 and Bickel and Lehmann 1979 (deviation), Efron and Morris 1973
(shrinkage), Efron and Stein 1981 (jackknife).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

LEAST_NORMALS = 3
"""Fewer samples do not tell how uncertain their deviation is; scores stay raw then."""

_NORMAL_MEDIAN_DIFFERENCE = 0.9538726
"""Median of the absolute difference of two draws of a normal distribution of deviation 1."""

_LOCATION_VARIANCE, _LOG_DEVIATION_VARIANCE = 1.0472, 0.58
"""Variances times the number of samples, at a normal distribution: of the location in deviations, of the log deviation."""

_LEAST_SHARE = 0.05
"""Lower bound of a view's deviation as a share of its modality's, since few scores can agree by chance."""

_MOST_GROUPS = 20
_MOST_SAMPLES = 400
"""Samples that are used, evenly spread: pairs grow with the square, and more change the scale by less than three percent."""

PREFIX = "scale."


@dataclass(frozen=True)
class ScoreScale:
    """Scale of the scores and maps of V views and M modalities.

    Attributes
    ----------
    location, deviation
        (V, M) float32, in the method's unit: of the image scores of normal samples.
    weights
        (M,) float32, sum 1: weights of the modalities where they are added.
    normals
        (N, V, M) float32, the raw image scores that it was estimated from; NaN where a view is missing.
    """

    location: Tensor
    deviation: Tensor
    weights: Tensor
    normals: Tensor

    def of_scores(self, scores: Tensor) -> Tensor:
        """Return image scores (B, V, M) in deviations from the location of normal samples."""
        scale = self.to(scores.device)
        return (scores - scale.location) / scale.deviation

    def of_maps(self, maps: Tensor) -> Tensor:
        """Return maps (B, V, M, S, S) in deviations of their modality, the same for all views.

        Each view's own location would lift or lower its background, where most pixels lie: pixels would then be compared by
        their view. With one modality the order of the pixels stays as the method gives it.
        """
        scale = self.to(maps.device)
        location, deviation = scale.location.mean(dim=0), scale.deviation.log().mean(dim=0).exp()
        shape = (len(location), 1, 1)
        return (maps - location.view(shape)) / deviation.view(shape)

    def without(self, samples: Sequence[int]) -> ScoreScale:
        """Return the scale estimated without some of its samples; the weights stay."""
        kept = torch.ones(len(self.normals), dtype=torch.bool)
        kept[list(samples)] = False
        return scale_of(self.normals[kept], self.weights)

    def to(self, device: torch.device) -> ScoreScale:
        """Return the scale on a device; it is copied there once."""
        if self.location.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = ScoreScale(*(getattr(self, field.name).to(device) for field in fields(self)))
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, ScoreScale]:
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by their names in a model file."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ScoreScale | None:
        """Restore a scale from the tensors of a model file; None where it has none.

        Raises
        ------
        KeyError
            If it has some of the tensors only.
        """
        if PREFIX + "location" not in state:
            return None
        return cls(*(state[PREFIX + field.name] for field in fields(cls)))


def scale_of(normals: Tensor, weights: Tensor | None = None) -> ScoreScale:
    """Estimate the scale from the image scores of normal samples.

    Parameters
    ----------
    normals
        (N, V, M) float, raw image scores; NaN where a view is missing. Views that fewer than three samples have get the scale
        of their modality.
    weights
        (M,) weights of the modalities; None: equal ones.

    Examples
    --------
    >>> scores = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]], [[3.0], [30.0]], [[4.0], [40.0]]]).repeat(8, 1, 1)
    >>> scale = scale_of(scores)
    >>> scale.location.flatten().tolist()
    [2.5, 25.0]
    >>> bool(scale.deviation[1, 0] > 5 * scale.deviation[0, 0])
    True
    """
    chosen = normals
    if len(normals) > _MOST_SAMPLES:
        chosen = normals[torch.linspace(0, len(normals) - 1, _MOST_SAMPLES).round().long()]
    views, modalities = normals.shape[1:]
    location, deviation = torch.zeros(views, modalities), torch.ones(views, modalities)
    for modality in range(modalities):
        location[:, modality], deviation[:, modality] = _of_modality(chosen[:, :, modality].double())
    if weights is None:
        weights = torch.full((modalities,), 1 / modalities)
    return ScoreScale(location, deviation, weights.float(), normals.float())


def _of_modality(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return location and deviation (V,) of scores (N, V) of the views of one modality, drawn towards their means."""
    columns = [column[torch.isfinite(column)] for column in scores.T]
    usable = [v for v, column in enumerate(columns) if len(column) >= LEAST_NORMALS]
    if not usable:
        return torch.zeros(len(columns)), torch.ones(len(columns))
    locations = torch.stack([pair_location(columns[v]) for v in usable])
    spreads = torch.stack([pair_deviation(columns[v]) for v in usable])
    if not bool((spreads > 0).any()):
        spreads = torch.ones_like(spreads)  # the scores say nothing about their scale
    spreads = spreads.clamp(min=_LEAST_SHARE * float(spreads[spreads > 0].median()))
    counts = torch.tensor([float(len(columns[v])) for v in usable], dtype=torch.float64)
    chance = max(
        float(torch.stack([_jackknife(columns[v]) for v in usable]).mean()), float((_LOG_DEVIATION_VARIANCE / counts).mean())
    )
    logs = drawn_together(spreads.log(), chance)
    unit = float(spreads.log().mean().exp())
    middles = drawn_together(locations / unit, float((_LOCATION_VARIANCE / counts).mean())) * unit
    location = torch.full((len(columns),), float(middles.mean()), dtype=torch.float64)
    deviation = torch.full((len(columns),), unit, dtype=torch.float64)
    location[usable], deviation[usable] = middles, logs.exp()
    return location.float(), deviation.float()


def drawn_together(values: Tensor, chance: float) -> Tensor:
    """Draw values (V,) towards their mean by the share of their variance that chance explains (empirical Bayes).

    Parameters
    ----------
    values
        One estimate per view.
    chance
        Variance of an estimate about its true value.
    """
    if len(values) < 2:
        return values
    mean = values.mean()
    between = max(0.0, float(values.var()) - chance)
    return mean + between / (between + chance) * (values - mean)


def pair_location(values: Tensor) -> Tensor:
    """Return the median of the means of all pairs of values (N,), each value also with itself (Hodges and Lehmann)."""
    first, second = torch.triu_indices(len(values), len(values))
    return _median((values[first] + values[second]) / 2)


def pair_deviation(values: Tensor) -> Tensor:
    """Return the median absolute difference of all pairs of values (N,), scaled to the deviation of a normal distribution."""
    first, second = torch.triu_indices(len(values), len(values), offset=1)
    return _median((values[first] - values[second]).abs()) / _NORMAL_MEDIAN_DIFFERENCE


def _jackknife(values: Tensor) -> Tensor:
    """Return the variance of the log of ``pair_deviation``, by leaving out each of up to 20 groups of values (N,)."""
    groups = min(len(values), _MOST_GROUPS)
    number = torch.arange(len(values)) % groups
    least = 1e-12 + 1e-3 * float(pair_deviation(values))
    logs = torch.stack([pair_deviation(values[number != k]).clamp(min=least).log() for k in range(groups)])
    return (groups - 1) / groups * ((logs - logs.mean()) ** 2).sum()


def _median(values: Tensor) -> Tensor:
    """Return the median of values (N,), the mean of the two middle ones where their number is even."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
