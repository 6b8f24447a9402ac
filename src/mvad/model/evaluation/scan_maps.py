"""Anomaly maps of views, carried back to the scan they were rendered from, and evaluated there by the datasets' own protocol.

MVTec 3D-AD (Bergmann et al. 2022) evaluates a map on the grid of the original scan: P-AUROC and AUPRO over all of its pixels,
image AUROC by a score a scan. ``source`` says which grid point every pixel of a view shows, so nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from mvad import files
from mvad.datasets.scan import ScanSource
from mvad.datasets.shards.loader import Batch
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import file_stem
from mvad.model.evaluation.figures import scan_figures
from mvad.model.evaluation.pictures import heat
from mvad.model.evaluation.ply import ply
from mvad.model.evaluation.results import Figures, ScanFile, ScanResults
from mvad.model.metrics.pixels import PixelScores

Rule = Literal["mean", "max", "visibility"]
RULES: tuple[Rule, ...] = get_args(Rule)
SCAN_MAPS = "scan"
_TOP = 0.999
"""The share of a scan's values that the scale of colours reaches up to."""
_NEAR = 3.0
"""A point that no pixel shows takes the value of the nearest one that is shown, up to so many grid cells away."""
_GRAZING = 0.05
"""Least weight of a pixel under ``visibility``: the cosine between its normal and the way to the camera, not below this."""


@dataclass(frozen=True)
class FusedMap:
    """An anomaly map on a scan's grid.

    Attributes
    ----------
    values
        (H, W) float32; the lowest value of the object where nothing of it is known, as off the object.
    known
        (H, W) bool: a view shows the point, or one next to it.
    """

    values: NDArray[np.float32]
    known: NDArray[np.bool_]


def fuse(
    maps: NDArray[np.float32], source: NDArray[np.int32], shape: tuple[int, int], rule: Rule,
    facing: NDArray[np.float32] | None = None,
) -> FusedMap:  # fmt: skip
    """Fuse the maps of a sample's views on the grid of its scan.

    Parameters
    ----------
    maps
        (V, S, S), of present views.
    source
        (V, S, S) the grid point, ``row * W + column``, that each pixel shows; -1: none.
    shape
        (H, W) of the scan.
    rule
        ``mean`` over all pixels that show a point, ``max``, or ``visibility``: a mean in which a pixel that looks at the
        surface straight on counts more than a grazing one.
    facing
        (V, S, S) cosine between normal and the way to the camera; needed for ``visibility``.

    Raises
    ------
    BadInput
        If ``source`` leads out of the grid, or ``facing`` is missing.
    """
    points = shape[0] * shape[1]
    shows = source >= 0
    place, value = source[shows], maps[shows].astype(np.float64)
    if len(place) and int(place.max()) >= points:
        raise BadInput(f"a view shows grid point {int(place.max())}, the scan has {points}; render and pack this scan again")
    if rule == "max":
        fused = np.full(points, -np.inf)
        np.maximum.at(fused, place, value)
        there = np.isfinite(fused)
    else:
        if rule == "visibility" and facing is None:
            raise BadInput("--fuse visibility needs normals; pack them, or take mean or max")
        weight = np.ones(len(place)) if rule == "mean" or facing is None else np.maximum(facing[shows], _GRAZING)
        total = np.bincount(place, weight, points)
        there = total > 0
        fused = np.bincount(place, weight * value, points) / np.where(there, total, 1)
    grid, known = fused.reshape(shape), there.reshape(shape)
    if not known.any():
        return FusedMap(np.zeros(shape, np.float32), known)
    away, nearest = ndimage.distance_transform_edt(~known, return_indices=True)
    near = away <= _NEAR
    filled = np.where(near, grid[tuple(nearest)], grid[known].min())
    return FusedMap(filled.astype(np.float32), near)


class ScanEvaluator:
    """Looks on while a split is evaluated, and evaluates the fused maps; a ``EvaluationCallback``.

    Parameters
    ----------
    run
        Folder that gets ``scan/KEY.tiff`` and ``scan/KEY.ply``.
    scans
        The category's raw scans.
    rules
        How to fuse; maps and clouds are written for the first.
    """

    fields: Sequence[str] = ("source", "normal")

    def __init__(self, run: Path, scans: ScanSource, rules: Sequence[Rule] = RULES[:1]) -> None:
        self.run, self.scans, self.rules = run, scans, tuple(rules)
        self._pixels = {rule: PixelScores() for rule in self.rules}
        self._samples: list[tuple[str, float, bool, str]] = []
        self._range: list[tuple[float, float]] = []

    def on_sample(self, batch: Batch, found: AnomalyMaps) -> None:
        """Fuse and evaluate one sample."""
        key = batch.keys[0]
        if batch.source is None:
            raise BadInput("maps can only be carried back to scans where shards have source; render and pack again")
        scan = self.scans.load(key)
        truth = np.zeros(scan.valid.shape, bool) if scan.gt is None else scan.gt
        present = batch.present[0]
        source = batch.source[0][present].numpy()
        large = functional.interpolate(found.maps.cpu(), size=source.shape[-1], mode="bilinear", align_corners=False)[0]
        facing = None if batch.normal is None else np.abs(batch.normal[0, present, ..., 2].numpy() / np.float32(127.5) - 1)
        for number, rule in enumerate(self.rules):
            fused = fuse(large[present].numpy(), source, truth.shape, rule, facing)
            self._pixels[rule].add(key, [fused.values], [truth])
            if number == 0:
                path = self._path(key, ".tiff")
                written = _tiff(fused.values)
                files.write_bytes(path, written)
                self._samples.append((key, float(found.sample_scores[0]), bool(batch.label[0]), files.sha256_bytes(written)))
                self._range.append((float(fused.values.min()), float(np.quantile(fused.values, _TOP))))

    def results(self) -> dict[str, Any]:
        """Write the clouds and return what goes into the results."""
        scores, labels = np.array([s[1] for s in self._samples], np.float64), np.array([s[2] for s in self._samples], bool)
        by_rule: dict[str, Figures] = {rule: scan_figures(scores, labels, self._pixels[rule]) for rule in self.rules}
        return {"scan": ScanResults(self.rules[0], by_rule, self._clouds())}

    def _clouds(self) -> list[ScanFile]:
        """Write a cloud for each sample; all share one scale of colours, up to the highest value but for one in a thousand."""
        low = min((lowest for lowest, _ in self._range), default=0.0)
        high = max(max((top for _, top in self._range), default=1.0), low + 1e-12)
        written = []
        for key, _, _, sha256 in self._samples:
            scan, values = self.scans.load(key), tifffile.imread(self._path(key, ".tiff"))
            shown = scan.valid & (values > values.min())
            cloud = ply(scan.xyz[shown], heat((values[shown] - low) / (high - low)), values[shown])
            files.write_bytes(self._path(key, ".ply"), cloud)
            stem = f"{SCAN_MAPS}/{file_stem(key)}"
            written.append(ScanFile(key, f"{stem}.tiff", sha256, f"{stem}.ply", files.sha256_bytes(cloud)))
        return written

    def _path(self, key: str, suffix: str) -> Path:
        return self.run / SCAN_MAPS / f"{file_stem(key)}{suffix}"


def _tiff(values: NDArray[np.float32]) -> bytes:
    """Return a float32 TIFF, as MVTec 3D-AD's evaluation reads them."""
    target = BytesIO()
    tifffile.imwrite(target, values, compression="zlib", metadata=None)
    return target.getvalue()
