"""Render the scans of a category: fit the rig, skip what is rendered, list the failures, write the manifest last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.registry import licence_of, reader_for
from mvad.datasets.renders.layout import FAILED, RECORD, RIG, TIMINGS, category_folder
from mvad.datasets.renders.record import SCHEMA, note_lines, read_record
from mvad.datasets.scan import SPLITS, ScanRef
from mvad.errors import BadInput, CannotWrite, MvadError
from mvad.progress import Progress
from mvad.render.backends.choose import rasteriser, resolve_backend
from mvad.render.cameras import fit_cameras
from mvad.render.engine import Run, Workers, started
from mvad.render.manifest import AGAIN, UNREAD, chosen_training_scans, mark_pending, write_manifest
from mvad.render.options import RenderOptions, RigOptions, changed_option
from mvad.render.rig import Rig
from mvad.render.scan_to_views import ScanJob, measure_scan, render_scan
from mvad.settings import flatten, resolve
from mvad.words import no_such


@dataclass(frozen=True)
class Summary:
    """Result of rendering one category.

    Attributes
    ----------
    category
        Name of the category.
    rendered, skipped, failed
        Numbers of scans that were rendered now, had been rendered before, and failed.
    folder
        Folder of the category's renders.
    audit
        Visibility of the ground truth; see ``audit.summarise``.
    poses
        How the objects lay, and which were cut off; see ``pose_summary.summarise_poses``.
    notes
        Decisions made in reading the scans, and what looks wrong about them, one line each.
    """

    category: str
    rendered: int
    skipped: int
    failed: int
    folder: Path
    audit: dict[str, Any]
    poses: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def render_category(
    dataset: str,
    category: str,
    raw: Path,
    renders: Path,
    options: RenderOptions,
    splits: Sequence[str],
    workers: Workers,
    overwrite: bool,
    progress: Progress,
    rig: Rig | None = None,
) -> Summary:
    """Render every scan of a category that is not rendered yet, and write its manifest.

    Parameters
    ----------
    dataset, category, raw
        Names of dataset and category, and the folder that holds the categories.
    renders
        Folder in which ``<dataset>/<category>/`` is written.
    options, splits
        The render options, and the splits to render; the rig is always fitted to the train split.
    workers
        The processes and threads to use.
    overwrite
        Whether existing renders are removed first.
    rig
        Cameras to use instead of fitting them.

    Raises
    ------
    BadInput
        If the raw data are unusable, or the folder holds renders of another configuration.
    MissingComponent
        If the backend is not available.
    """
    return next(render_categories(dataset, [category], raw, renders, options, splits, workers, overwrite, progress, rig))


def render_categories(
    dataset: str,
    categories: Iterable[str],
    raw: Path,
    renders: Path,
    options: RenderOptions,
    splits: Sequence[str],
    workers: Workers,
    overwrite: bool,
    progress: Progress,
    rig: Rig | None = None,
) -> Iterator[Summary]:
    """Render categories one after the other; see ``render_category``.

    They share workers, which are started when first needed, and once more for a larger category.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise no_such("split", unknown[0], SPLITS)
    backend = resolve_backend(options.backend, options.device, progress.say)
    options = replace(options, backend=backend, rig=_consistent(options.rig, rig))
    # Before anything is written, because a missing backend would fail for every scan.
    device = workers.scheduler or _device(options, progress)
    with contextlib.ExitStack() as stack:
        runs: list[tuple[int, Run]] = []

        def run_for(items: int) -> Run:
            jobs = workers.jobs_for(items)
            if runs and runs[-1][0] < jobs:  # a larger category than those before
                stack.close()
                runs.clear()
            if not runs:
                runs.append((jobs, stack.enter_context(started(workers, items))))
            return runs[0][1]

        for category in categories:
            refs = reader_for(dataset).refs(raw.absolute(), category, options.reading)
            chosen = _as_read(options, refs[0])
            folder = category_folder(renders, dataset, category).absolute()
            facts = {
                "schema": SCHEMA, "dataset": dataset, "category": category,
                "licence": licence_of(dataset, raw, chosen.read.licence),
                "config": chosen.recorded(), "rasteriser": {"name": options.backend, "device": device},
                **({"reader": chosen.read.reader} if chosen.read.reader else {}),
            }  # fmt: skip
            with files.locked(folder):
                _remove_leftovers(folder)
                if overwrite:
                    _clear(folder)
                summary = _one_category(folder, refs, chosen, splits, rig, facts, run_for, progress)
            yield summary


def _device(options: RenderOptions, progress: Progress) -> str:
    """Return the name of the device that renders, having said which others cannot."""
    found = rasteriser(options.backend, device=options.device)
    for reason in found.refused:
        progress.say(f"notice: {options.backend} renders on {found.device}, because another cannot be rendered on: {reason}")
    return found.device


def _as_read(options: RenderOptions, ref: ScanRef) -> RenderOptions:
    """Return the options with those that a reader decided on: what own scans are.

    Raises
    ------
    BadInput
        If there are options of own scans for a published dataset.
    """
    if not ref.read.reader and options.read != OwnScanOptions():
        changed = next(name for name, value in flatten(options.read).items() if value != getattr(OwnScanOptions(), name))
        raise BadInput(f"read.{changed} is for own scans (mvad render folder), {ref.dataset} has its own reader; leave it out")
    return replace(options, read=ref.read)


def _consistent(options: RigOptions, given: Rig | None) -> RigOptions:
    """Return the options of a rig that say what is done: cameras from a file stand in the sensor's frame.

    Raises
    ------
    BadInput
        If one of them has no effect under the others.
    """
    if given is not None and given.frame is None:
        options = replace(options, frame="sensor")
    if options.frame == "object" and options.center == "scan":
        raise BadInput("rig.center = scan is for cameras in the sensor's frame; give --frame sensor, or leave out --center")
    return options


def _one_category(
    folder: Path,
    refs: Sequence[ScanRef],
    options: RenderOptions,
    splits: Sequence[str],
    rig: Rig | None,
    facts: dict[str, Any],
    run_for: Callable[[int], Run],
    progress: Progress,
) -> Summary:
    wanted = [ref for ref in refs if ref.split in splits]
    failures: dict[str, str] = {}
    todo: list[ScanRef] = []
    rig = _recorded_rig(folder, options, rig)  # what is refused leaves the folder as it is
    records = _records_of(folder, wanted, facts["config"])
    try:
        if rig is None:
            rig = _fit(folder, refs, options, run_for(len(wanted)), failures, progress)
        todo = [
            ref
            for ref in wanted
            if ref.key not in failures and not _is_done(_sample_folder(folder, ref), records.get(ref.key), rig)
        ]
        progress.start(f"render {facts['category']}", len(wanted), len(wanted) - len(todo))
        if todo:
            mark_pending(folder, todo)
            _render(folder, todo, rig, options, run_for(len(wanted)), failures, progress)
    finally:
        manifest = write_manifest(folder, facts, refs, wanted, failures, options.rig)
    rendered = sum(ref.key not in failures for ref in todo)
    skipped = len(wanted) - len({ref.key for ref in todo} | {ref.key for ref in wanted if ref.key in failures})
    return Summary(
        facts["category"], rendered, skipped, len(failures), folder, manifest["audit"], manifest["poses"], note_lines(manifest)
    )  # fmt: skip


def recorded_cameras(folder: Path) -> tuple[RenderOptions, Rig]:
    """Return the options and the rig that a category was rendered with.

    Raises
    ------
    BadInput
        If the folder has no rig file, or the file is damaged.
    """
    kind = 'the cameras of a rendered category; "mvad render" writes them'
    recorded = files.read_sealed_json(folder / RIG, kind, AGAIN)
    options, _ = resolve(RenderOptions, [("recorded", recorded["config"])])
    return options, Rig.from_json(recorded["rig"])


def _recorded_rig(folder: Path, options: RenderOptions, given: Rig | None) -> Rig | None:
    """Return the folder's rig if it was made under this configuration, or record the given one."""
    path, config = folder / RIG, options.recorded()
    if not path.exists():
        if given is not None:
            files.write_sealed_json(path, {"config": config, "rig": given.to_json(), "training_scans": []})
        return given
    recorded = files.read_sealed_json(path, "a rig", AGAIN)
    different = [key for key, value in config.items() if recorded.get("config", {}).get(key) != value]
    if different:
        key = different[0]
        raise BadInput(
            f"{folder} was made with {key} = {recorded['config'].get(key)}, this run asks for {config[key]}. "
            "Give --overwrite, or another --workspace."
        )
    rig = Rig.from_json(recorded["rig"])
    if given is not None and given.sha256 != rig.sha256:
        raise BadInput(f"{folder} was made with another rig than this --rig. Give --overwrite, or another --workspace.")
    if given is None and not recorded["training_scans"]:
        raise BadInput(f"{folder} was made with a --rig file; give it again, or --overwrite, or another --workspace.")
    return rig


def _fit(
    folder: Path, refs: Sequence[ScanRef], options: RenderOptions, run: Run, failures: dict[str, str], progress: Progress
) -> Rig:
    """Measure training scans, evenly spread over their sorted keys, fit the rig to them and record it.

    Raises
    ------
    BadInput
        If there is no training scan, or none of them can be read.
    """
    chosen = chosen_training_scans(refs, options.rig)
    measured = {}
    progress.start(f"measure {refs[0].category}", len(chosen))
    reader = reader_for(chosen[0].dataset) if chosen else None
    for (ref, _, _), result in run(measure_scan, [(ref, options, reader) for ref in chosen]):
        if isinstance(result, Exception):
            failures[ref.key] = _reason(result)
        else:
            measured[ref.key] = result
        progress.advance()
    unread = sorted(ref.key for ref in chosen if ref.key in failures)
    if unread and not measured:
        raise BadInput(
            f"{failures[unread[0]]} (the first of {len(unread)} training scans, none of which can be read; the cameras are fitted "
            f"to them. All reasons: {folder / FAILED})"
        )
    rig = fit_cameras([measured[key] for key in sorted(measured)], options.rig)
    facts = {"config": options.recorded(), "rig": rig.to_json(), "training_scans": sorted(measured)}
    files.write_sealed_json(folder / RIG, facts | ({UNREAD: unread} if unread else {}))
    return rig


def _render(
    folder: Path,
    refs: Sequence[ScanRef],
    rig: Rig,
    options: RenderOptions,
    run: Run,
    failures: dict[str, str],
    progress: Progress,
) -> None:
    reader = reader_for(refs[0].dataset)
    tasks = [ScanJob(ref, options, rig, _sample_folder(folder, ref), reader) for ref in refs]
    for task, result in run(render_scan, tasks):
        if isinstance(result, CannotWrite) and result.is_general:
            raise result  # the others would fail, too
        if isinstance(result, Exception):
            failures[task.ref.key] = _reason(result)
            progress.say(f"failed: {task.ref.key}: {_reason(result)}")
        else:
            files.append_line(folder / TIMINGS, {"key": task.ref.key, "seconds": result})
        progress.advance()


def _sample_folder(folder: Path, ref: ScanRef) -> Path:
    return folder / ref.split / ref.defect / ref.id


def _records_of(folder: Path, refs: Sequence[ScanRef], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of the scans that are rendered already, by key, after checking that it was under this configuration.

    Raises
    ------
    BadInput
        If some was not, and the folder's cameras do not say so: they were removed, or a job with ``--overwrite`` was killed.
    """
    records = {}
    for ref in refs:
        sample = _sample_folder(folder, ref)
        record = _record_of(sample)
        if record is None:
            continue
        changed = changed_option(record["config"], config)
        if changed:
            raise BadInput(
                f"{sample} was rendered with {changed} = {record['config'][changed]}, this run asks for {config[changed]}; give --overwrite, "
                "or another --workspace"
            )
        records[ref.key] = record
    return records


def _record_of(sample: Path) -> dict[str, Any] | None:
    """Return the record of a sample; None where it is missing, or damaged by a power cut: it is rendered again."""
    try:
        files.read_sealed_json(sample / RECORD, "a record", AGAIN)
    except BadInput:
        return None
    return read_record(sample)


def _is_done(sample: Path, record: Mapping[str, Any] | None, rig: Rig) -> bool:
    if record is None:
        return False
    if record["rig_sha256"] != rig.sha256:
        raise BadInput(f"{sample} was rendered by another rig; give --overwrite, or another --workspace")
    return True


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, MvadError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]


def _remove_leftovers(folder: Path) -> None:
    for leftover in sorted(folder.rglob("*.part-*")):
        files.remove(leftover)


def _clear(folder: Path) -> None:
    """Remove what a category's folder holds; its cameras last, so that a repetition knows of what is left by which it was made."""
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name == RIG, entry.name)):
        if entry.name != ".lock":
            files.remove(entry)
