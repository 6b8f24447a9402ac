"""Check what was written against what was recorded: renders, shards, and the checkpoints of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mvad import files
from mvad.datasets.renders.layout import MANIFEST, RECORD
from mvad.datasets.renders.record import read_record
from mvad.datasets.shards.schema import IMAGES, open_checked
from mvad.errors import BadInput
from mvad.progress import Progress


def verify_tree(paths: Sequence[Path], progress: Progress) -> tuple[int, list[str]]:
    """Check every record, manifest and checkpoint below some folders.

    Returns
    -------
    tuple
        Number of files checked, and a line for each fault that says what it is and what rebuilds it.
    """
    checked = 0
    faults: list[str] = []
    for kind, check in _CHECKS:
        found = sorted(path for root in paths for path in root.rglob(kind) if ".part-" not in str(path))
        progress.start(f"verify {kind}", len(found))
        for path in found:
            try:
                checked += check(path, faults)
            except BadInput as error:
                faults.append(str(error))
                checked += 1
            progress.advance()
    return checked, faults


def _render(path: Path, faults: list[str]) -> int:
    folder, record = path.parent, read_record(path.parent)
    for name, sha256 in record["outputs"].items():
        _compare(files.inside(folder, name), sha256, f"delete {folder} and run the same mvad render again", faults)
    return len(record["outputs"]) + 1


def _manifest(path: Path, faults: list[str]) -> int:
    manifest = files.read_json(path, "a manifest")
    if not isinstance(manifest, dict):
        raise BadInput(f"{path}: not a manifest; run mvad render or mvad pack again")
    for sample in manifest.get("samples", []):
        record = files.inside(path.parent, f"{sample['split']}/{sample['defect']}/{sample['id']}/{RECORD}")
        _compare(record, sample["record_sha256"], "run the same mvad render again", faults)
    for shard in manifest.get("shards", []):
        target = files.inside(path.parent, shard["file"])
        if _compare(target, shard["sha256"], '"mvad pack" rebuilds it', faults):
            _shard_laws(target, faults)
    return 1 + len(manifest.get("shards", []))


def _shard_laws(path: Path, faults: list[str]) -> None:
    """Fields must agree with each other: a mask where the label says so, a label where a view shows a defect."""
    with open_checked(path) as file:
        view_label, label, present = (file[name][:].astype(bool) for name in ("view_label", "label", "present"))
        for index in range(len(label)):
            arrays = {name: file[name][index] for name in IMAGES if name in file}
            masked = arrays["mask"].reshape(len(arrays["mask"]), -1).any(axis=1)
            if (masked & ~view_label[index]).any():
                faults.append(f"{path}: sample {index} has a mask in a view that is labelled normal; pack again")
            if (view_label[index] & ~present[index]).any() or (view_label[index].any() and not label[index]):
                faults.append(f"{path}: sample {index}: labels contradict each other; pack again")
            if "source" in arrays and not np.array_equal(arrays["source"] >= 0, arrays["depth"] > 0):
                faults.append(f"{path}: sample {index}: depth and source disagree where the object is; pack again")


def _model(path: Path, faults: list[str]) -> int:
    facts = files.read_json(path, "facts of a model")
    _compare(path.with_suffix(".safetensors"), facts.get("sha256"), "train again from the checkpoint before", faults)
    return 2


def _compare(path: Path, sha256: object, remedy: str, faults: list[str]) -> bool:
    try:
        same = files.sha256_file(path) == sha256
        reason = "is not what was written (SHA-256 differs)"
    except OSError as error:
        same, reason = False, f"cannot be read ({error.strerror})"
    if not same:
        faults.append(f"{path}: {reason}; {remedy}")
    return same


_CHECKS: tuple[tuple[str, Callable[[Path, list[str]], int]], ...] = (
    (RECORD, _render),
    (MANIFEST, _manifest),
    ("model.json", _model),
    ("step-*.json", _model),
)
