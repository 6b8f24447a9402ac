"""The way of one scan: read, clean, mesh, look, encode, write. It composes and decides nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvad import __version__
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.record import SCHEMA
from mvad.datasets.scan import Scan, ScanRef
from mvad.errors import BadInput
from mvad.files import sha256_file
from mvad.render.audit import audit_scan, count_points
from mvad.render.backends.choose import rasteriser
from mvad.render.clean import Cleaned, clean
from mvad.render.options import RenderOptions
from mvad.render.render_views import look
from mvad.render.rig import Extent, Rig, extent_of
from mvad.render.surface import build_surface
from mvad.render.views import ViewSet
from mvad.render.writer import encode_views, write_sample
from mvad.settings import flatten


@dataclass(frozen=True)
class ScanJob:
    """One scan to render: picklable, so that it can go to another process."""

    ref: ScanRef
    options: RenderOptions
    rig: Rig
    folder: Path


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 5)
        self._last = now


@contextlib.contextmanager
def _about(ref: ScanRef) -> Iterator[None]:
    """Name the scan's points in what the later stages, which know no files, find wrong with them."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{ref.paths.get('xyz', ref.paths.get('depth'))}: {error}") from error


def measure_scan(job: tuple[ScanRef, RenderOptions]) -> Extent:
    """Return where a training scan's object is, for the rig."""
    ref, options = job
    rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = reader_for(ref.dataset).load(ref)
    with _about(ref):
        return extent_of(clean(scan, options.clean))


def render_scan(job: ScanJob) -> dict[str, float]:
    """Render one scan into its folder and return the seconds by stage.

    Raises
    ------
    BadInput
        If the scan cannot be read, cleaned, meshed or seen.
    """
    ref, options = job.ref, job.options
    watch = Stopwatch()
    scan, cleaned, views, rig = _look_at(ref, options, job.rig, watch)
    contents = encode_views(views, rig)
    watch.lap("encode")
    audit = audit_scan(scan, cleaned, views)
    write_sample(job.folder, contents, _record(job, rig, audit, count_points(scan, cleaned)))
    watch.lap("write")
    return watch.seconds


def views_of(ref: ScanRef, options: RenderOptions, rig: Rig) -> tuple[ViewSet, Rig]:
    """Render one scan without writing anything; returns its views and the rig that saw them.

    Raises
    ------
    BadInput
        As ``render_scan``.
    """
    _, _, views, used = _look_at(ref, options, rig, Stopwatch())
    return views, used


def _look_at(ref: ScanRef, options: RenderOptions, rig: Rig, watch: Stopwatch) -> tuple[Scan, Cleaned, ViewSet, Rig]:
    backend = rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = reader_for(ref.dataset).load(ref)
    watch.lap("read")
    with _about(ref):
        cleaned = clean(scan, options.clean)
        watch.lap("clean")
        surface = build_surface(scan, cleaned, options.surface)
        watch.lap("mesh")
        if options.rig.center == "scan":
            rig = rig.moved_to(extent_of(cleaned).centre)
        views = look(surface, scan.gt, rig, backend, options.samples)
        watch.lap("raster")
    return scan, cleaned, views, rig


def _record(job: ScanJob, rig: Rig, audit: dict[str, Any], points: dict[str, Any]) -> dict[str, Any]:
    ref = job.ref
    coding = rig.depth_coding
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
        "rig_shift_m": (rig.center - job.rig.center).tolist(),
        "config": flatten(job.options.recorded()),
        "inputs": {kind: {"file": path.name, "sha256": sha256_file(path)} for kind, path in sorted(ref.paths.items())},
        "points": points,
        "audit": audit,
    }
