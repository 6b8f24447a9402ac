"""The pipeline of one scan: read, clean, mesh, rasterise, encode, write."""

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
from mvad.datasets.scan import Scan, ScanReader, ScanRef
from mvad.errors import BadInput
from mvad.files import sha256_file
from mvad.render.audit import audit_scan, count_points
from mvad.render.backends.choose import rasteriser
from mvad.render.cameras import Measured, measure, measure_mesh, stand_before
from mvad.render.clean import Cleaned, clean
from mvad.render.frame.object_frame import ObjectPose
from mvad.render.mesh_surface import mesh_cleaned, mesh_surface
from mvad.render.options import RenderOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Rig
from mvad.render.surface import build_surface
from mvad.render.views import ViewSet
from mvad.render.writer import encode_views, write_sample


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


@dataclass(frozen=True)
class RenderedScan:
    """A rendered scan with everything that is recorded of it.

    Attributes
    ----------
    scan, cleaned, views
        The scan, its object, and its views.
    rig
        The cameras in the sensor's camera frame.
    pose
        Pose of the object in the category's rig.
    cut
        Views that the object reaches beyond.
    """

    scan: Scan
    cleaned: Cleaned
    views: ViewSet
    rig: Rig
    pose: ObjectPose
    cut: list[int]


def measure_scan(job: tuple[ScanRef, RenderOptions, ScanReader | None]) -> Measured:
    """Return what the rig needs of a training scan.

    Raises
    ------
    BadInput
        If the scan cannot be read, cleaned or meshed.
    """
    ref, options, reader = job
    rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = (reader or reader_for(ref.dataset)).load(ref)
    with _with_file_name(ref):
        return measured_scan(scan, options)


def measured_scan(scan: Scan, options: RenderOptions) -> Measured:
    """Return what the rig needs of a scan that was read already; see ``measure_scan``."""
    if scan.mesh is not None:
        return measure_mesh(scan.mesh)
    cleaned = clean(scan, options.clean)
    surface = build_surface(scan, cleaned, options.surface) if options.rig.frame == "object" else None
    return measure(scan, cleaned, surface)


def render_scan(job: ScanJob) -> dict[str, float]:
    """Render one scan into its folder and return the seconds by stage.

    Raises
    ------
    BadInput
        If the scan cannot be read, cleaned or meshed, or no view shows its object.
    """
    ref, options = job.ref, job.options
    timer = StageTimer()
    done = _render(ref, job.reader, options, job.rig, timer)
    contents = encode_views(done.views, done.rig)
    timer.record("encode")
    write_sample(job.folder, contents, _record(job, done))
    timer.record("write")
    return timer.seconds


def views_of(ref: ScanRef, options: RenderOptions, rig: Rig) -> RenderedScan:
    """Render one scan without writing anything.

    Raises
    ------
    BadInput
        As ``render_scan``.
    """
    return _render(ref, None, options, rig, StageTimer())


def views_of_scan(scan: Scan, options: RenderOptions, rig: Rig) -> RenderedScan:
    """Render a scan that was read already; see ``views_of``.

    Raises
    ------
    BadInput
        If the scan cannot be cleaned, meshed or seen.
    """
    return _rendered(scan, options, rig, StageTimer())


def _render(ref: ScanRef, reader: ScanReader | None, options: RenderOptions, rig: Rig, timer: StageTimer) -> RenderedScan:
    rasteriser(options.backend, device=options.device)  # before open3d: see backends.egl
    scan = (reader or reader_for(ref.dataset)).load(ref)
    timer.record("read")
    with _with_file_name(ref):
        return _rendered(scan, options, rig, timer)


def _rendered(scan: Scan, options: RenderOptions, rig: Rig, timer: StageTimer) -> RenderedScan:
    backend = rasteriser(options.backend, device=options.device)
    cleaned = clean(scan, options.clean) if scan.mesh is None else mesh_cleaned(scan)
    timer.record("clean")
    surface = build_surface(scan, cleaned, options.surface) if scan.mesh is None else mesh_surface(scan.mesh)
    timer.record("mesh")
    before, pose = stand_before(rig, scan, cleaned, options.rig)
    timer.record("pose")
    views = render_views(surface, scan.gt, before, backend, options.samples)
    views = views.mirrored() if pose.mirrored else views
    timer.record("raster")
    return RenderedScan(scan, cleaned, views, before, pose, before.cut(surface.body))


def _record(job: ScanJob, done: RenderedScan) -> dict[str, Any]:
    ref, pose = job.ref, done.pose
    coding = job.rig.depth_coding
    notes = [*ref.notes, *done.scan.notes, *done.cleaned.notes]
    return ({"notes": notes} if notes else {}) | {
        "schema": SCHEMA,
        "mvad_version": __version__,
        "key": ref.key,
        "dataset": ref.dataset,
        "category": ref.category,
        "split": ref.split,
        "defect": ref.defect,
        "id": ref.id,
        "views": job.rig.views,
        "size": job.rig.size,
        "depth": {"step_m": coding.step_m, "offset_m": coding.offset_m},
        "rig_sha256": job.rig.sha256,
        "scan_size": list(done.scan.valid.shape),
        "pose": pose.matrix.tolist(),
        "pose_number": pose.number,
        "pose_fit": pose.fit,
        "turn_deg": pose.turn_deg,
        "cut": done.cut,
        "config": job.options.recorded(),
        "inputs": {kind: {"file": path.name, "sha256": sha256_file(path)} for kind, path in sorted(ref.paths.items())},
        "points": count_points(done.scan, done.cleaned),
        "audit": audit_scan(done.scan, done.cleaned, done.views, done.rig, mirrored=pose.mirrored),
    }
