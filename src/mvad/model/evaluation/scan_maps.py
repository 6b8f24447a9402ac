"""Projection of the views' anomaly maps to the raw scan, and evaluation there by the datasets' own protocol.

MVTec 3D-AD (Bergmann et al. 2022) evaluates a map on the grid of the raw scan: P-AUROC and AUPRO over all pixels of the grid,
image AUROC with one score per scan. ``source`` holds the grid point that each pixel of a view shows, so the projection is exact.
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

from mvad import __version__, files
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
"""Quantile of a scan's values at which the colour scale ends."""
_NEAR = 3.0
"""Grid cells up to which a point that no pixel shows takes the value of the nearest point that is shown."""
_GRAZING = 0.05
"""Lower bound of a pixel's weight under ``visibility``, which is the cosine between its normal and the viewing direction."""


@dataclass(frozen=True)
class FusedMap:
    """An anomaly map on a scan's grid.

    Attributes
    ----------
    values
        (H, W) float32; the lowest value on the object where ``known`` is false, as off the object.
    known
        (H, W) bool, grid points that a view shows, or that are at most 3 cells away from one.
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
        (V, S, S) float32, of present views.
    source
        (V, S, S) int32, the grid point ``row * W + column`` that each pixel shows; -1: none.
    shape
        (H, W) of the scan.
    rule
        ``mean`` over all pixels that show a point, ``max``, or ``visibility``: a mean weighted by ``facing``, in which pixels
        that see the surface frontally count more than grazing ones.
    facing
        (V, S, S) float32, cosine between normal and viewing direction; needed for ``visibility``.

    Raises
    ------
    BadInput
        If ``source`` lies outside of the grid, or ``facing`` is missing.
    """
    points = shape[0] * shape[1]
    shows = source >= 0
    index, value = source[shows], maps[shows].astype(np.float64)
    if len(index) and int(index.max()) >= points:
        raise BadInput(f"a view shows grid point {int(index.max())}, the scan has {points}; render and pack this scan again")
    if rule == "max":
        fused = np.full(points, -np.inf)
        np.maximum.at(fused, index, value)
        shown = np.isfinite(fused)
    else:
        if rule == "visibility" and facing is None:
            raise BadInput("--fuse visibility needs normals; pack them, or take mean or max")
        weight = np.ones(len(index)) if rule == "mean" or facing is None else np.maximum(facing[shows], _GRAZING)
        total = np.bincount(index, weight, points)
        shown = total > 0
        fused = np.bincount(index, weight * value, points) / np.where(shown, total, 1)
    grid, known = fused.reshape(shape), shown.reshape(shape)
    if not known.any():
        return FusedMap(np.zeros(shape, np.float32), known)
    distance, nearest = ndimage.distance_transform_edt(~known, return_indices=True)
    near = distance <= _NEAR
    filled = np.where(near, grid[tuple(nearest)], grid[known].min())
    return FusedMap(filled.astype(np.float32), near)


class ScanEvaluator:
    """An ``EvaluationCallback`` that fuses the maps of each sample on its scan and evaluates the fused maps.

    Parameters
    ----------
    run
        Folder of the run; ``scan/KEY.tiff`` and ``scan/KEY.ply`` are written there.
    scans
        The category's raw scans.
    rules
        Rules of fusion; maps and clouds are written for the first.
    """

    fields: Sequence[str] = ("source", "normal")

    def __init__(self, run: Path, scans: ScanSource, rules: Sequence[Rule] = RULES[:1]) -> None:
        self.run, self.scans, self.rules = run, scans, tuple(rules)
        self._pixels = {rule: PixelScores() for rule in self.rules}
        self._samples: list[tuple[str, float, bool, str]] = []
        self._range: list[tuple[float, float]] = []

    def on_sample(self, batch: Batch, found: AnomalyMaps) -> None:
        """Fuse the maps of one sample, collect the pixels, and write the fused map."""
        key = batch.keys[0]
        if batch.source is None:
            raise BadInput("maps can only be projected to scans where shards have source; render and pack again")
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
        """Write the clouds; return the field ``scan`` of the results."""
        scores, labels = np.array([s[1] for s in self._samples], np.float64), np.array([s[2] for s in self._samples], bool)
        by_rule: dict[str, Figures] = {rule: scan_figures(scores, labels, self._pixels[rule]) for rule in self.rules}
        return {"scan": ScanResults(self.rules[0], by_rule, self._clouds(), __version__)}

    def _clouds(self) -> list[ScanFile]:
        """Write one cloud per sample, all with one colour scale, which ends at the largest 99.9 % quantile of a sample."""
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
    """Return a float32 TIFF, as MVTec 3D-AD's evaluation reads it."""
    target = BytesIO()
    tifffile.imwrite(target, values, compression="zlib", metadata=None)
    return target.getvalue()
