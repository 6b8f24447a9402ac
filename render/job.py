"""Render the scans of a category: rig first, resume, failures listed, manifest last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets.registry import licence_of, reader_for
from mvad.datasets.renders.layout import AUDIT, FAILED, MANIFEST, RECORD, RIG, TIMINGS, category_folder
from mvad.datasets.renders.record import SCHEMA, read_record
from mvad.datasets.scan import ReadOptions, ScanRef
from mvad.errors import BadInput, MvadError
from mvad.progress import Progress
from mvad.render.audit import summarise
from mvad.render.backends.choose import resolve_backend
from mvad.render.engine import run_all
from mvad.render.options import RenderOptions
from mvad.render.rig import Rig, fit_rig
from mvad.render.scan_to_views import ScanJob, measure_scan, render_scan
from mvad.settings import flatten

_JOBS_WORTH = 40
"""Starting workers takes seconds; below this many scans a second process gains nothing."""


@dataclass(frozen=True)
class Summary:
    """What a run over one category did."""

    category: str
    rendered: int
    skipped: int
    failed: int
    folder: Path
    audit: dict[str, Any]


def render_category(
    dataset: str,
    category: str,
    raw: Path,
    renders: Path,
    options: RenderOptions,
    splits: Sequence[str],
    jobs: int,
    overwrite: bool,
    progress: Progress,
) -> Summary:
    """Render every scan of a category that is not rendered yet.

    Parameters
    ----------
    dataset, category, raw
        Which scans, and the folder that holds the categories.
    renders
        Where ``<dataset>/<category>/`` is written.
    options, splits
        How, and which splits; the rig always comes from the train split.
    jobs
        Worker processes; 0 chooses by the number of scans.
    overwrite
        Throw away what another configuration rendered.

    Raises
    ------
    BadInput
        If the raw data are unusable, or the folder holds renders of another configuration.
    """
    options = replace(options, backend=resolve_backend(options.backend))
    folder = category_folder(renders, dataset, category)
    refs = reader_for(dataset).refs(raw, category, ReadOptions(light=options.light))
    wanted = [ref for ref in refs if ref.split in splits]
    with files.locked(folder):
        _remove_leftovers(folder)
        if overwrite:
            _clear(folder)
        failures: dict[str, str] = {}
        jobs = jobs or _default_jobs(len(wanted))
        try:
            rig = _rig(folder, refs, options, jobs, failures, progress)
            todo = [ref for ref in wanted if ref.key not in failures and not _is_done(folder, ref, rig)]
            done = len(wanted) - len(todo)
            progress.start(f"render {category}", len(wanted), done)
            _render(folder, todo, rig, options, jobs, failures, progress)
        finally:
            manifest = _write_manifest(folder, dataset, category, licence_of(dataset, raw), options, failures)
    return Summary(category, len(todo) - len(failures), done, len(failures), folder, manifest["audit"])


def _default_jobs(scans: int) -> int:
    return (os.cpu_count() or 1) if scans >= _JOBS_WORTH else 1


def _rig(
    folder: Path,
    refs: Sequence[ScanRef],
    options: RenderOptions,
    jobs: int,
    failures: dict[str, str],
    progress: Progress,
) -> Rig:
    """Return the recorded rig if it was made under this configuration, else fit and record one."""
    path = folder / RIG
    config = flatten(options)
    if path.exists():
        recorded = files.read_json(path, "a rig")
        different = [key for key, value in config.items() if recorded.get("config", {}).get(key) != value]
        if different:
            key = different[0]
            raise BadInput(
                f"{folder} was made with {key} = {recorded['config'].get(key)}, this run asks for {config[key]}. "
                "Give --overwrite, or another --workspace."
            )
        return Rig.from_json(recorded["rig"])
    training = [ref for ref in refs if ref.split == "train"]
    extents = {}
    progress.start(f"measure {refs[0].category}", len(training))
    for (ref, _), result in run_all(measure_scan, [(ref, options) for ref in training], jobs):
        if isinstance(result, Exception):
            failures[ref.key] = _reason(result)
        else:
            extents[ref.key] = result
        progress.advance()
    rig = fit_rig([extents[key] for key in sorted(extents)], options.rig)
    files.write_json(path, {"config": config, "rig": rig.to_json(), "training_scans": sorted(extents)})
    return rig


def _render(
    folder: Path,
    refs: Sequence[ScanRef],
    rig: Rig,
    options: RenderOptions,
    jobs: int,
    failures: dict[str, str],
    progress: Progress,
) -> None:
    tasks = [ScanJob(ref, options, rig, _sample_folder(folder, ref)) for ref in refs]
    for task, result in run_all(render_scan, tasks, jobs):
        if isinstance(result, Exception):
            failures[task.ref.key] = _reason(result)
            progress.say(f"failed: {task.ref.key}: {_reason(result)}")
        else:
            files.append_line(folder / TIMINGS, {"key": task.ref.key, "seconds": result})
        progress.advance()


def _sample_folder(folder: Path, ref: ScanRef) -> Path:
    return folder / ref.split / ref.defect / ref.id


def _is_done(folder: Path, ref: ScanRef, rig: Rig) -> bool:
    sample = _sample_folder(folder, ref)
    if not (sample / RECORD).exists():
        return False
    record = read_record(sample)
    if record["rig_sha256"] != rig.sha256:
        raise BadInput(f"{sample} was rendered by another rig; give --overwrite, or another --workspace")
    return True


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, MvadError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]


def _write_manifest(
    folder: Path, dataset: str, category: str, licence: str, options: RenderOptions, failures: dict[str, str]
) -> dict[str, Any]:
    """Write manifest and audit as the sorted union of the records, and the list of failures."""
    samples, audits, points = [], {}, {}
    for path in sorted(folder.glob(f"*/*/*/{RECORD}")):
        if ".part-" in str(path.relative_to(folder)):
            continue
        record = read_record(path.parent)
        samples.append(
            {name: record[name] for name in ("key", "split", "defect", "id")} | {"record_sha256": files.sha256_file(path)}
        )
        audits[record["key"]], points[record["key"]] = record["audit"], record["points"]
    samples.sort(key=lambda sample: str(sample["key"]))
    rig = files.read_json(folder / RIG)["rig"] if (folder / RIG).exists() else None
    manifest = {
        "schema": SCHEMA,
        "dataset": dataset,
        "category": category,
        "licence": licence,
        "config": flatten(options),
        "rig": rig,
        "samples": samples,
        "audit": summarise(audits, points),
    }
    files.write_json(folder / MANIFEST, manifest)
    files.write_json(folder / AUDIT, {"summary": manifest["audit"], "samples": audits})
    if failures:
        lines = [json.dumps({"key": key, "reason": reason}) for key, reason in sorted(failures.items())]
        files.write_text(folder / FAILED, "\n".join(lines) + "\n")
    else:
        (folder / FAILED).unlink(missing_ok=True)
    return manifest


def _remove_leftovers(folder: Path) -> None:
    for left in sorted(folder.rglob("*.part-*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
