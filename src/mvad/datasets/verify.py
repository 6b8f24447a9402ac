"""Verification of stored files against their records: renders, shards, exports, and files of packages that add rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mvad import files
from mvad.datasets.exported import FACTS as EXPORT
from mvad.datasets.folders import visible
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.renders.layout import AUDIT, FAILED, RECORD, RIG, TIMINGS
from mvad.datasets.renders.record import read_record
from mvad.datasets.shards.reader import ShardFile, of_another_version
from mvad.datasets.shards.schema import CARD, MANIFEST, WRITTEN, contradiction, contradictions_of_rig
from mvad.errors import BadInput
from mvad.progress import Progress

Kind = Literal["render", "renders", "shards", "run", "other"]
"""Target of a repair: a rendered sample, the lists of a rendered category, a packed category, a run, or none."""


@dataclass(frozen=True)
class Fault:
    """A file that differs from its record.

    Attributes
    ----------
    text
        One line: the file, what is wrong, and the remedy.
    path
        The file.
    kind
        Kind of the repair.
    place
        The folder to be repaired.
    """

    text: str
    path: Path
    kind: Kind
    place: Path


@dataclass(frozen=True)
class FilePattern:
    """A kind of files, and how they are checked.

    Attributes
    ----------
    matches
        Returns whether a path is of this kind.
    check
        Checks a file and reports faults to the ``Check``; a ``BadInput`` that it raises is reported as a fault, too.
    """

    matches: Callable[[Path], bool]
    check: Callable[[Check, Path], None]


@dataclass(frozen=True)
class FileRules:
    """Rules for the files that a package writes.

    Attributes
    ----------
    patterns
        Kinds of its files, except those that are checked together with another file.
    repair_of
        Returns the kind of repair of a damaged file and the folder to be repaired; None if the file is not the package's.
    """

    patterns: Sequence[FilePattern]
    repair_of: Callable[[Path], tuple[Kind, Path] | None]


class Check:
    """State of a verification. A file that several records list is counted once.

    Attributes
    ----------
    trusted
        Whether shards may be parsed in this process.
    seen, faults
        Files that were checked, and the faults found.
    listed
        Keys of the samples that a category's manifest lists, by folder.
    """

    def __init__(self, trusted: bool, rules: Sequence[FileRules]) -> None:
        self.trusted = trusted
        self.seen: set[Path] = set()
        self.faults: list[Fault] = []
        self._told: set[Path] = set()
        self.listed: dict[Path, set[str]] = {}
        self._rules = rules
        self._manifests: dict[Path, dict[str, Any] | None] = {}

    def pattern_of(self, path: Path) -> FilePattern | None:
        """Return how a file is checked, or None if it is checked together with another file or unknown."""
        return next((pattern for rules in self._rules for pattern in rules.patterns if pattern.matches(path)), None)

    def fault(self, path: Path, text: str) -> None:
        """Report a fault of a file."""
        self.seen.add(path)
        found = next((repair for rules in self._rules if (repair := rules.repair_of(path)) is not None), None)
        kind, place = found or ("other", path)
        self.faults.append(Fault(text, path, kind, place))
        if text.startswith(f"{path}:"):
            self._told.add(path)

    def compare(self, path: Path, sha256: object, remedy: str) -> None:
        """Compare a file with its recorded hash."""
        self.seen.add(path)
        try:
            same = files.sha256_file(path) == sha256
            reason = "is not what was written (SHA-256 differs)"
        except OSError as error:
            same, reason = False, f"cannot be read ({error.strerror})"
        if not same and path not in self._told:
            self.fault(path, f"{path}: {reason}; {remedy}")

    def manifest_of(self, folder: Path) -> dict[str, Any]:
        """Return a category's manifest, which is read once; empty on later calls if it could not be read."""
        if folder not in self._manifests:
            self._manifests[folder] = None
            remedy = "run mvad render or mvad pack again"
            self._manifests[folder] = files.read_sealed_json(folder / MANIFEST, "a manifest", remedy)
            self.seen.add(folder / MANIFEST)
        return self._manifests[folder] or {}


def check_sealed(check: Check, path: Path) -> None:
    """Check a JSON file by its seal."""
    files.read_sealed_json(path, "JSON of mvad", "run the command that wrote it again")
    check.seen.add(path)


def check_log(check: Check, path: Path) -> None:
    """Check every line of a log by its checksum."""
    check.seen.add(path)
    damaged = files.damaged_lines(path)
    if damaged:
        lines = ", ".join(map(str, damaged[:5]))
        check.fault(path, f"{path}: line {lines} is not what was written; it is a log, remove the line")


def verify_tree(
    paths: Sequence[Path], progress: Progress, trusted: bool = True, rules: Sequence[FileRules] | None = None
) -> tuple[int, list[Fault]]:
    """Check all files of mvad in some folders, or single files.

    Parameters
    ----------
    paths
        Folders or files.
    progress
        Receives one step per file.
    trusted
        False for files from other sources: each shard is then parsed in a separate process, even if a manifest lists it.
    rules
        Rules for the files; None: those of renders, shards and exports.

    Returns
    -------
    tuple
        Number of files checked, and the faults.

    Raises
    ------
    BadInput
        If a path does not exist.
    """
    check = Check(trusted, (DATA_RULES,) if rules is None else rules)
    matched: list[tuple[Path, FilePattern]] = []
    for root in paths:
        if not root.exists():
            raise BadInput(f"{root}: not found; give a folder of renders, shards or runs")
        root = Path(os.path.abspath(root))
        candidates = [root] if root.is_file() else _files_below(root)
        found = ((path, check.pattern_of(path)) for path in candidates)
        matched += sorted(((path, pattern) for path, pattern in found if pattern is not None), key=lambda pair: pair[0])
    progress.start("verify", len(matched))
    for path, pattern in matched:
        try:
            pattern.check(check, path)
        except BadInput as error:
            check.fault(path, str(error))
        except (
            LookupError,
            TypeError,
            AttributeError,
            ValueError,
        ) as error:  # an intact seal does not prove that mvad wrote the content
            what = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            check.fault(path, f"{path}: does not have the form that mvad writes ({what}); make it again with --overwrite")
        progress.advance()
    return len(check.seen), check.faults


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that may be data and are not being written, those of linked folders, too, each folder once.

    Names are filtered before paths are made: renders of a dataset are millions of files.
    """
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders[:] = [name for name in folders if _may_be_data(name)]
        for name in names:
            if _may_be_data(name) and os.path.isfile(os.path.join(folder, name)):
                yield Path(folder, name)


def _may_be_data(name: str) -> bool:
    return not name.startswith(".") and ".part-" not in name


def _manifest(check: Check, path: Path) -> None:
    manifest = check.manifest_of(path.parent)
    if "shards" in manifest:
        wrong = of_another_version(manifest)
        if wrong:
            check.fault(path, f"{path}: {wrong}")
    for sample in manifest.get("samples", []):
        record = files.below(path.parent, sample["split"], sample["defect"], sample["id"], RECORD)
        check.compare(record, sample["record_sha256"], "run the same mvad render again")
    for name in (RIG, AUDIT) if manifest.get("rig") else ():
        if not (path.parent / name).exists():
            check.fault(path.parent / name, f"{path.parent / name}: is missing; run the same mvad render again")
    for shard in manifest.get("shards", []):
        target = files.inside(path.parent, shard["file"])
        if not target.exists():
            check.fault(target, f"{target}: is missing; pack again")
    if "card_sha256" in manifest:
        check.compare(path.parent / CARD, manifest["card_sha256"], "pack again")


def _record(check: Check, path: Path) -> None:
    record = read_record(path.parent)
    check.seen.add(path)
    category = path.parents[3]
    if (category / MANIFEST).exists():
        if category not in check.listed:
            check.listed[category] = {str(sample["key"]) for sample in check.manifest_of(category).get("samples", [])}
        if record["key"] not in check.listed[category]:
            check.fault(category / MANIFEST, f"{path.parent}: is not in {MANIFEST}; run the same mvad render again")
    for name, sha256 in record["outputs"].items():
        check.compare(files.inside(path.parent, name), sha256, "run the same mvad render again")
    strays = {entry.name for entry in visible(path.parent.iterdir())} - {RECORD, *record["outputs"]}
    for name in sorted(strays):
        check.fault(path.parent / name, f"{path.parent / name}: is not in the record; remove it")


def _shard(check: Check, path: Path) -> None:
    """Check a shard: hash if the manifest lists it, structure, checksum of every chunk, invariants between fields."""
    manifest = check.manifest_of(path.parent) if (path.parent / MANIFEST).exists() else {}
    listed = next((entry["sha256"] for entry in manifest.get("shards", []) if entry["file"] == path.name), None)
    if manifest and listed is None:
        check.fault(path, f"{path}: is not in {MANIFEST}; pack again, or remove it")
    shard = ShardFile(path, listed, check.trusted)
    check.seen.add(path)
    for wrong in _rig_faults(shard):
        check.fault(path, f"{path}: {wrong}; pack again")
    keys = shard.texts("key")
    shard.texts("made_from")  # no rule concerns it, but its checksum is compared
    if len(set(keys)) != len(keys):
        check.fault(path, f"{path}: a key occurs twice; pack again")
    for row in range(len(shard)):
        wrong = contradiction(shard.sample(row))
        if wrong:
            check.fault(path, f"{path}: sample {row} ({keys[row]}): {wrong}; pack again")


def _rig_faults(shard: ShardFile) -> list[str]:
    """Return the faults of a shard's cameras and ranges."""
    if "rig/range" not in shard.layout.fields:
        return []
    near_far_radius = shard.read("rig/range")
    faults = contradictions_of_rig(shard.read("rig/poses"), shard.read("rig/intrinsics"), near_far_radius)
    if not faults and shard.coding is not None:
        coding, expected = shard.coding, DepthCoding.between(*near_far_radius[:2].tolist())
        if not np.allclose([coding.step_m, coding.offset_m], [expected.step_m, expected.offset_m], rtol=1e-9, atol=0):
            faults.append("step and offset of depth do not span near to far of rig/range")
    return faults


def _repair_of(path: Path) -> tuple[Kind, Path] | None:
    """Return the repair of a file by its name and folder."""
    if path.name in (FAILED, TIMINGS):
        return "other", path
    if path.name in (RIG, AUDIT):
        return "renders", path.parent
    for folder in path.parents:
        if (folder / RECORD).exists() or (path.name == RECORD and folder == path.parent):
            return "render", folder
        if (folder / RIG).exists():
            return ("render", path.parent) if path.parent != folder else ("renders", folder)
    if path.suffix == ".h5" or path.name in (CARD, MANIFEST):
        return "shards", path.parent
    return None


def named(*names: str) -> Callable[[Path], bool]:
    """Return a function that tests whether a path has one of the given names."""
    return lambda path: path.name in names


DATA_RULES = FileRules(
    (
        FilePattern(named(MANIFEST), _manifest),
        FilePattern(named(RECORD), _record),
        FilePattern(lambda path: path.suffix == ".h5", _shard),
        FilePattern(lambda path: path.name in (RIG, AUDIT) and (path.parent / MANIFEST).exists(), check_sealed),
        FilePattern(named(FAILED, TIMINGS, WRITTEN, "generated.jsonl"), check_log),
        FilePattern(named(EXPORT), check_sealed),
    ),
    _repair_of,
)
"""Rules for the files of renders, shards and exports."""
