"""The manifest of a rendered category: what is rendered, what is missing and why, and what was decided in reading it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvad import files
from mvad.datasets.folders import visible
from mvad.datasets.renders.layout import AUDIT, FAILED, MANIFEST, RECORD, RIG
from mvad.datasets.renders.record import missing_of, read_record, summarised
from mvad.datasets.scan import GOOD, UNKNOWN, ScanRef
from mvad.errors import BadInput
from mvad.render.audit import summarise
from mvad.render.options import RigOptions
from mvad.render.pose_summary import summarise_poses
from mvad.render.rig import Rig

AGAIN = "run the same mvad render again with --overwrite"
UNREAD = "unread_training_scans"
"""Member of ``rig.json``: training scans that the cameras were to be fitted to and that could not be read; absent if none."""

NOT_YET = "not rendered yet"
LATE = (
    "training scan that was not there or not readable when the cameras were fitted, so they are not fitted to it; --overwrite "
    "fits them anew"
)

STALE = "rendered earlier, but its scan is no longer among the raw data under this name; --overwrite renders what is there"


def chosen_training_scans(refs: Sequence[ScanRef], options: RigOptions) -> list[ScanRef]:
    """Return the training scans that cameras are fitted to, evenly spread over their sorted keys."""
    training = sorted(ref for ref in refs if ref.split == "train")
    step = max(1, len(training) / max(options.measured, 1)) if options.measured else 1
    return [training[int(k * step)] for k in range(int(len(training) / step))]


def write_manifest(
    folder: Path, facts: Mapping[str, Any], refs: Sequence[ScanRef], wanted: Sequence[ScanRef], failures: Mapping[str, str],
    options: RigOptions,
) -> dict[str, Any]:  # fmt: skip
    """Write manifest and audit as the sorted union of the records, and the list of failures; return the manifest.

    Parameters
    ----------
    folder
        Folder of the category's renders.
    facts
        Members of the manifest that do not depend on its samples.
    refs, wanted
        All scans of the category, and those that were to be rendered now.
    failures
        Reason by key of the scans that failed.
    options
        How the cameras were fitted.
    """
    samples, records = [], {}
    for path in visible(folder.glob(f"*/*/*/{RECORD}"), folder):
        if ".part-" in str(path.relative_to(folder)):
            continue
        record = read_record(path.parent)
        samples.append(
            {name: record[name] for name in ("key", "split", "defect", "id")} | {"record_sha256": files.sha256_file(path)}
        )
        records[record["key"]] = record
    samples.sort(key=lambda sample: str(sample["key"]))
    audits = {key: record["audit"] for key, record in records.items()}
    recorded = files.read_sealed_json(folder / RIG, "a rig", AGAIN) if (folder / RIG).exists() else {}
    cameras = dict(recorded.get("rig") or {})
    poses = summarise_poses(records, Rig.from_json(cameras) if cameras else None)
    cameras.pop("frame", None)  # the templates stand in rig.json alone
    manifest = dict(facts) | {
        "rig": cameras or None, "rig_from_scans": bool(recorded.get("training_scans")), "samples": samples,
        "audit": summarise(audits, {key: record["points"] for key, record in records.items()}), "poses": poses,
    }  # fmt: skip
    notes = {key: [*record.get("notes", ())] for key, record in records.items()}
    for key in _late(recorded, refs, options) & set(records):
        notes[key].append(LATE)
    for key in set(records) - {ref.key for ref in refs if not ref.fault}:
        notes[key].append(STALE)
    for key, text in _without_masks(records):
        notes[key].append(text)
    for name, value in (("notes", summarised(notes)), ("missing", _missing(folder, refs, wanted, failures, set(records)))):
        if value:
            manifest[name] = value
    files.write_sealed_json(folder / AUDIT, {"summary": manifest["audit"], "samples": audits})
    if failures:
        files.write_lines(folder / FAILED, [{"key": key, "reason": reason} for key, reason in sorted(failures.items())])
    elif (folder / FAILED).exists():
        files.remove(folder / FAILED)
    files.write_sealed_json(folder / MANIFEST, manifest)  # last, because it lists the others
    return manifest


def mark_pending(folder: Path, refs: Iterable[ScanRef]) -> None:
    """List scans as missing in the manifest of an earlier run, if there is one, before they are rendered.

    If the process is killed then, the manifest does not pass for that of a finished job.
    """
    manifest = _read(folder)
    if manifest:
        before = {entry["key"]: entry for entry in missing_of(manifest)}
        now = {ref.key: {"key": ref.key, "reason": NOT_YET, "why": "pending"} for ref in refs}
        merged = now | before
        files.write_sealed_json(folder / MANIFEST, manifest | {"missing": [merged[key] for key in sorted(merged)]})


def _missing(
    folder: Path, refs: Sequence[ScanRef], wanted: Sequence[ScanRef], failures: Mapping[str, str], rendered: set[str]
) -> list[dict[str, str]]:
    """Return what this job or an earlier one was to render and did not, sorted by key; scans that are gone are not missed."""
    by_key = {ref.key: ref for ref in refs}
    before = {entry["key"]: entry for entry in missing_of(_read(folder))}
    missing = []
    for key in sorted(({ref.key for ref in wanted} | set(before) & set(by_key)) - rendered):
        entry = before.get(key, {"key": key, "reason": NOT_YET, "why": "pending"})
        if key in failures:
            entry = {"key": key, "reason": failures[key], "why": "failed" if _is_whole(by_key[key]) else "raw"}
        missing.append(entry)
    return missing


def _is_whole(ref: ScanRef) -> bool:
    """Return whether a scan can become a render as its files are named: it has a label and points, not pictures alone."""
    if ref.fault:
        return False
    points = ref.paths.get("xyz", ref.paths.get("depth"))
    return points is None or points.exists()


def _read(folder: Path) -> dict[str, Any]:
    """Return the manifest of an earlier run, empty where there is none that can be read."""
    try:
        return files.read_sealed_json(folder / MANIFEST, "a manifest", AGAIN)
    except BadInput:
        return {}


def _late(recorded: Mapping[str, Any], refs: Sequence[ScanRef], options: RigOptions) -> set[str]:
    """Return the keys of training scans that the recorded cameras should have been fitted to, and were not."""
    fitted = set(recorded.get("training_scans", ()))
    if not fitted:
        return set()
    training = [ref.key for ref in refs if ref.split == "train"]
    all_measured = not options.measured or len(training) <= options.measured
    return (set(recorded.get(UNREAD, ())) | set(training if all_measured else ())) - fitted


def _without_masks(records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return key and note of each scan of a defect of which no test scan has a mask that marks anything."""
    marked: dict[str, list[str]] = {}
    for key, record in records.items():
        if record["split"] == "test" and record["defect"] not in (GOOD, UNKNOWN):
            marked.setdefault(record["defect"], []).append("" if record["audit"]["total"] else key)
    return [
        (
            key,
            f"no mask of test/{defect} marks anything; if these scans are good, rename the folder to good and render with --overwrite",
        )
        for defect, keys in marked.items()
        if all(keys)
        for key in keys
    ]
