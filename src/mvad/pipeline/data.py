"""Rendering of single scans and categories, and packing, for the public API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mvad.datasets import realiad
from mvad.datasets.mvtec3d import MVTec3D, ref_beside
from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.own_scans import OwnScans
from mvad.datasets.photographs.published import pack_set
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.renders.record import missing_of
from mvad.datasets.scan import Scan
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.shards.reader import read_manifest
from mvad.errors import BadInput, PartlyDone
from mvad.progress import Progress
from mvad.render.backends.choose import rasteriser, resolve_backend
from mvad.render.cameras import fit_cameras
from mvad.render.engine import Workers
from mvad.render.job import Summary, render_category
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig
from mvad.render.scan_to_views import measured_scan, views_of_scan
from mvad.render.views import ViewSet
from mvad.words import counted


def render_scan(scan: Scan | str | Path, rig: Rig | None, options: RenderOptions) -> ViewSet:
    """Render one scan; see ``mvad.render_scan``."""
    options = replace(options, backend=resolve_backend(options.backend, options.device))
    rasteriser(options.backend, device=options.device)  # before open3d: see render.backends.egl
    if not isinstance(scan, Scan):
        scan = _read(Path(scan), options.read)
    if rig is None:
        rig = fit_cameras([measured_scan(scan, options)], options.rig)
    return views_of_scan(scan, options, rig).views


def _read(path: Path, own: OwnScanOptions) -> Scan:
    """Read the scan of an ``xyz/NAME.tiff``, or an own scan or mesh."""
    if not path.is_file():
        raise BadInput(f"{path}: not found; give the xyz/NAME.tiff of a scan, or the NPZ, PLY, PCD, STL or OBJ file of one")
    if path.suffix.lower() in (".tif", ".tiff") and own == OwnScanOptions():
        return MVTec3D().load(ref_beside(path))
    reader = OwnScans()
    return reader.load(reader.ref_of(path, own))


def render(
    dataset: str, category: str, raw: Path, renders: Path, options: RenderOptions, splits: Sequence[str], workers: Workers,
    overwrite: bool, progress: Progress, rig: Rig | None,
) -> Summary:  # fmt: skip
    """Render a category; see ``mvad.render_category``."""
    return render_category(dataset, category, raw, renders, options, splits, workers, overwrite, progress, rig)


def pack(
    dataset: str, category: str, source: Path, shards: Path, options: PackOptions, jobs: int, progress: Progress, overwrite: bool,
    partial: bool, splits: str | None, validation: float,
) -> Path:  # fmt: skip
    """Pack a category; see ``mvad.pack``."""
    if dataset == realiad.NAME:
        made = pack_realiad(source, category, shards, options, progress, jobs, overwrite, splits, validation)
    elif dataset in photograph_sets():
        made = pack_set(source, dataset, category, shards, options, progress, jobs, overwrite, partial, validation)
    else:
        made = pack_renders(source, dataset, category, shards, options, progress, jobs, overwrite, partial)
    lost = missing_of(read_manifest(made.parent))
    if lost and not partial:
        raise PartlyDone(
            f"{made.parent}: packed without {counted(len(lost), 'sample')}, such as {lost[0]['key']} ({lost[0]['reason']}); partial=True accepts that"
        )
    return made.parent
