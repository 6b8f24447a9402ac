"""The pipeline of one scan: read, clean, mesh, rasterise, encode, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mvad import __version__
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.record import SCHEMA
from mvad.datasets.scan import Scan, ScanReader, ScanRef
from mvad.errors import BadInput
from mvad.files import sha256_file
from mvad.render.audit import audit_scan, count_points
from mvad.render.backends.choose import rasteriser
from mvad.render.clean import Cleaned, clean
from mvad.render.options import RenderOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Extent, Rig, extent_of
from mvad.render.surface import build_surface
from mvad.render.views import ViewSet
from mvad.render.writer import encode_views, write_sample
from mvad.settings import flatten


@dataclass(frozen=True)
class ScanJob:
    """One scan to render into ``folder``; picklable, so that it can be sent to another process.

    ``reader`` is the dataset's where it was registered by a caller, which other processes do not know; None: by name.
    """

    ref: ScanRef
    options: RenderOptions
    rig: Rig
    folder: Path
    reader: ScanReader | None = None


@dataclass
class StageTimer:
    """Seconds spent by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def record(self, stage: str) -> None:
        """Record the time since the previous call, or since the start, under a stage's name."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 5)
        self._last = now


@contextlib.contextmanager
def _with_file_name(ref: ScanRef) -> Iterator[None]:
    """Prefix errors of later stages, which have no file names, with the file of the scan's points."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{ref.paths.get('xyz', ref.paths.get('depth'))}: {error}") from error


def measure_scan(job: tuple[ScanRef, RenderOptions, ScanReader | None]) -> Extent:
    """Return the extent of a training scan's object, for the rig.

    Raises
    ------
    BadInput
        If the scan cannot be read or cleaned.
    """
    ref, options, reader = job
    rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = (reader or reader_for(ref.dataset)).load(ref)
    with _with_file_name(ref):
        return extent_of(clean(scan, options.clean))


def render_scan(job: ScanJob) -> dict[str, float]:
    """Render one scan into its folder and return the seconds by stage.

    Raises
    ------
    BadInput
        If the scan cannot be read, cleaned or meshed, or no view shows its object.
    """
    ref, options = job.ref, job.options
    timer = StageTimer()
    scan, cleaned, views, rig = _render(ref, job.reader, options, job.rig, timer)
    contents = encode_views(views, rig)
    timer.record("encode")
    audit = audit_scan(scan, cleaned, views)
    write_sample(job.folder, contents, _record(job, scan, rig, audit, count_points(scan, cleaned)))
    timer.record("write")
    return timer.seconds


def views_of(ref: ScanRef, options: RenderOptions, rig: Rig) -> tuple[ViewSet, Rig]:
    """Render one scan without writing anything; return its views and the rig, moved to the scan where ``center`` is ``scan``.

    Raises
    ------
    BadInput
        As ``render_scan``.
    """
    _, _, views, used = _render(ref, None, options, rig, StageTimer())
    return views, used


def views_of_scan(scan: Scan, options: RenderOptions, rig: Rig) -> tuple[ViewSet, Rig]:
    """Render a scan that was read already; see ``views_of``.

    Raises
    ------
    BadInput
        If the scan cannot be cleaned, meshed or seen.
    """
    _, views, used = _rendered(scan, options, rig, StageTimer())
    return views, used


def _render(
    ref: ScanRef, reader: ScanReader | None, options: RenderOptions, rig: Rig, timer: StageTimer
) -> tuple[Scan, Cleaned, ViewSet, Rig]:
    rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = (reader or reader_for(ref.dataset)).load(ref)
    timer.record("read")
    with _with_file_name(ref):
        return scan, *_rendered(scan, options, rig, timer)


def _rendered(scan: Scan, options: RenderOptions, rig: Rig, timer: StageTimer) -> tuple[Cleaned, ViewSet, Rig]:
    backend = rasteriser(options.backend, device=options.device)
    cleaned = clean(scan, options.clean)
    timer.record("clean")
    surface = build_surface(scan, cleaned, options.surface)
    timer.record("mesh")
    if options.rig.center == "scan":
        rig = rig.moved_to(extent_of(cleaned).centre)
    views = render_views(surface, scan.gt, rig, backend, options.samples)
    timer.record("raster")
    return cleaned, views, rig


def _record(job: ScanJob, scan: Scan, rig: Rig, audit: dict[str, Any], points: dict[str, Any]) -> dict[str, Any]:
    ref = job.ref
    coding = rig.depth_coding
    pose = np.eye(4)
    pose[:3, 3] = job.rig.center - rig.center
    return {
        "schema": SCHEMA,
        "mvad_version": __version__,
        "key": ref.key,
        "dataset": ref.dataset,
        "category": ref.category,
        "split": ref.split,
        "defect": ref.defect,
        "id": ref.id,
        "views": rig.views,
        "size": rig.size,
        "depth": {"step_m": coding.step_m, "offset_m": coding.offset_m},
        "rig_sha256": job.rig.sha256,
        "scan_size": list(scan.valid.shape),
        "pose": pose.tolist(),
        "pose_number": 0,
        "config": flatten(job.options.recorded()),
        "inputs": {kind: {"file": path.name, "sha256": sha256_file(path)} for kind, path in sorted(ref.paths.items())},
        "points": points,
        "audit": audit,
    }
