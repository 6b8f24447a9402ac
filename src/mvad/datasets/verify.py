"""Check what was written against what was recorded: renders, shards, and the models of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.layout import AUDIT, FAILED, RECORD, RIG, TIMINGS
from mvad.datasets.renders.record import read_manifest as read_renders_manifest
from mvad.datasets.renders.record import read_record
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.reader import ShardFile, read_manifest
from mvad.datasets.shards.schema import CARD, MANIFEST, contradiction
from mvad.datasets.shards.sources import photographed_category
from mvad.errors import BadInput
from mvad.progress import Progress

Kind = Literal["render", "renders", "shards", "run", "other"]


@dataclass(frozen=True)
class Fault:
    """Something that is not what was written.

    Attributes
    ----------
    text
        One line: which file, what, and what mends it.
    path
        The file.
    kind
        Which repair it takes: a rendered sample, a rendered category's lists, a packed category, a run.
    place
        The folder that repair works on.
    """

    text: str
    path: Path
    kind: Kind
    place: Path


def verify_tree(paths: Sequence[Path], progress: Progress, trusted: bool = True) -> tuple[int, list[Fault]]:
    """Check every file of ours below some folders, or single files.

    Where the files come from somebody else (``trusted`` is false), shards are parsed in processes of their own, manifest or not.

    Returns
    -------
    tuple
        Number of files checked, and the faults.

    Raises
    ------
    BadInput
        If a path does not exist.
    """
    check = _Check(trusted)
    found: list[tuple[Path, Callable[[Path], None]]] = []
    for root in paths:
        if not root.exists():
            raise BadInput(f"{root}: not found; give a folder of renders, shards or runs")
        candidates = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        candidates = [path for path in candidates if ".part-" not in str(path.relative_to(root.parent))]
        found += [(path, action) for path in candidates if (action := check.action(path)) is not None]
    progress.start("verify", len(found))
    for path, action in found:
        try:
            action(path)
        except BadInput as error:
            check.fault(path, str(error))
        except (LookupError, TypeError, AttributeError, ValueError) as error:  # sealed, but by whom?
            what = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            check.fault(path, f"{path}: does not have the form that mvad writes ({what}); make it again with --overwrite")
        progress.advance()
    return len(check.seen), check.faults


def verify_inputs(renders: Path, shards: Path, raw: Path, progress: Progress) -> tuple[int, list[Fault]]:
    """Compare raw files with the hashes that were taken when they were rendered or packed.

    Parameters
    ----------
    renders, shards
        Folders of a workspace.
    raw
        Holds a folder of raw data for each dataset; categories that are not there are left out.

    Returns
    -------
    tuple
        Number of files or photographed samples compared, and the faults.
    """
    compared, faults = 0, []
    for path in sorted(renders.glob(f"*/*/{MANIFEST}")):
        manifest = read_renders_manifest(path.parent)
        dataset, category, light = manifest["dataset"], manifest["category"], int(manifest["config"]["light"])
        if not (raw / dataset / category).is_dir():
            continue
        refs = {ref.key: ref for ref in reader_for(dataset).refs(raw / dataset, category, ReadOptions(light=light))}
        progress.start(f"inputs of {category}", len(manifest["samples"]))
        for sample in manifest["samples"]:
            folder = files.below(path.parent, sample["split"], sample["defect"], sample["id"])
            ref = refs.get(sample["key"])
            for kind, listed in read_record(folder)["inputs"].items():
                compared += 1
                place = ref.paths.get(kind) if ref else None
                wrong = _difference(place, listed["sha256"])
                if wrong:
                    where = place or raw / dataset / sample["key"]
                    faults.append(
                        Fault(
                            f"{where}: {wrong} it was rendered; restore it, or render again with --overwrite",
                            where,
                            "other",
                            folder,
                        )
                    )
            progress.advance()
    for path in sorted(shards.glob(f"{realiad.NAME}/*/{MANIFEST}")):
        manifest, root = read_manifest(path.parent), raw / realiad.NAME
        category = str(manifest["category"])
        if realiad.image_root(root) is None or not (root / realiad.JSON_FOLDERS[0] / f"{category}.json").exists():
            continue
        there = photographed_category(root, category, int(manifest["packing"]["size"]))
        found = {source.key: source for source in there.sources}
        compared += 1
        if there.config["split_file_sha256"] != manifest["config"]["split_file_sha256"]:
            split = root / realiad.JSON_FOLDERS[0] / f"{category}.json"
            text = f"{split}: is not what it was when it was packed; restore it, or pack again with --overwrite"
            faults.append(Fault(text, split, "other", path))
        progress.start(f"inputs of {category}", sum(entry["samples"] for entry in manifest["shards"]))
        for entry in manifest["shards"]:
            shard = ShardFile(files.inside(path.parent, entry["file"]), entry["sha256"])
            for key, listed in zip(shard.texts("key"), shard.texts("made_from"), strict=True):
                compared += 1
                try:
                    same = key in found and found[key].sha256() == listed
                    text = f"{root}: the photographs of {key} are not those that were packed"
                except BadInput as error:
                    same, text = False, str(error)
                if not same:
                    faults.append(Fault(f"{text}; restore them, or pack again with --overwrite", path, "other", path))
                progress.advance()
    return compared, faults


def _difference(path: Path | None, sha256: str) -> str:
    if path is None or not path.exists():
        return "is not there, but was when"
    return "" if files.sha256_file(path) == sha256 else "is not what it was when"


class _Check:
    """What was seen so far. A file that several others speak of is counted once."""

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted
        self.seen: set[Path] = set()
        self.faults: list[Fault] = []
        self.manifests: dict[Path, dict[str, Any] | None] = {}
        self.listed: dict[Path, set[str]] = {}

    def action(self, path: Path) -> Callable[[Path], None] | None:
        """Return how a file is checked, or None if it is checked with another, or is none of ours."""
        if path.name == MANIFEST:
            return self._manifest
        if path.name == RECORD:
            return self._record
        if path.suffix == ".h5":
            return self._shard
        if path.name in (RIG, AUDIT) and (path.parent / MANIFEST).exists():
            return self._sealed
        if path.name in (FAILED, TIMINGS, "metrics.jsonl", "written.jsonl", "generated.jsonl"):
            return self._log
        if path.name == "model.json" or (path.name.startswith("step-") and path.suffix == ".json"):
            return self._tensors
        if path.match("results*.json") and path.parent.parent.name == "runs":
            return self._results
        if path.name in ("export.json", "missing-views.json", "threshold.json") or path.match("reports/reproduce-*.json"):
            return self._sealed
        if path.name in ("missing-views.jsonl", "predictions.jsonl"):
            return self._log
        if path.name.endswith(".onnx.json"):
            return self._onnx
        if path.name == "config.json" and path.parent.parent.name == "runs":
            return self._sealed
        return None

    def fault(self, path: Path, text: str) -> None:
        self.seen.add(path)
        kind, place = _repair_of(path)
        self.faults.append(Fault(text, path, kind, place))

    def _manifest(self, path: Path) -> None:
        manifest = self._manifest_of(path.parent)
        for sample in manifest.get("samples", []):
            record = files.below(path.parent, sample["split"], sample["defect"], sample["id"], RECORD)
            self._compare(record, sample["record_sha256"], "run the same mvad render again")
        for name in (RIG, AUDIT) if manifest.get("rig") else ():
            if not (path.parent / name).exists():
                self.fault(path, f"{path.parent / name}: is missing; run the same mvad render again")
        for shard in manifest.get("shards", []):
            target = files.inside(path.parent, shard["file"])
            if not target.exists():
                self.fault(target, f"{target}: is missing; pack again")
        if "card_sha256" in manifest:
            self._compare(path.parent / CARD, manifest["card_sha256"], "pack again")

    def _record(self, path: Path) -> None:
        record = read_record(path.parent)
        self.seen.add(path)
        category = path.parents[3]
        if (category / MANIFEST).exists():
            if category not in self.listed:
                self.listed[category] = {str(sample["key"]) for sample in self._manifest_of(category).get("samples", [])}
            if record["key"] not in self.listed[category]:
                self.fault(category / MANIFEST, f"{path.parent}: is not in {MANIFEST}; run the same mvad render again")
        for name, sha256 in record["outputs"].items():
            self._compare(files.inside(path.parent, name), sha256, "run the same mvad render again")
        strays = {entry.name for entry in path.parent.iterdir()} - {RECORD, *record["outputs"]}
        for name in sorted(strays):
            self.fault(path.parent / name, f"{path.parent / name}: is not in the record; remove it")

    def _shard(self, path: Path) -> None:
        """Hash first where a manifest speaks of the file, structure next, then every chunk and the laws between fields."""
        manifest = self._manifest_of(path.parent) if (path.parent / MANIFEST).exists() else {}
        listed = next((entry["sha256"] for entry in manifest.get("shards", []) if entry["file"] == path.name), None)
        if manifest and listed is None:
            self.fault(path, f"{path}: is not in {MANIFEST}; pack again, or remove it")
        shard = ShardFile(path, listed, self.trusted)
        self.seen.add(path)
        for wrong in _rig_faults(shard):
            self.fault(path, f"{path}: {wrong}; pack again")
        keys = shard.texts("key")
        if len(set(keys)) != len(keys):
            self.fault(path, f"{path}: a key is there twice; pack again")
        for row in range(len(shard)):
            wrong = contradiction(shard.sample(row))
            if wrong:
                self.fault(path, f"{path}: sample {row} ({keys[row]}): {wrong}; pack again")

    def _sealed(self, path: Path) -> None:
        files.read_sealed_json(path, "JSON of mvad", "run the command that wrote it again")
        self.seen.add(path)

    def _results(self, path: Path) -> None:
        results = files.read_sealed_json(path, "results", "evaluate again")
        self.seen.add(path)
        for sample in results["samples"]:
            self._compare(files.inside(path.parent, sample["picture"]), sample["picture_sha256"], "evaluate again")
            self._compare(files.inside(path.parent, sample["map"]), sample["map_sha256"], "evaluate again")
        for sample in results.get("scan", {}).get("samples", []):
            for kind in ("map", "cloud"):
                self._compare(
                    files.inside(path.parent, sample[kind]), sample[f"{kind}_sha256"], "evaluate --project-to-scan again"
                )

    def _onnx(self, path: Path) -> None:
        facts = files.read_sealed_json(path, "facts of an exported detector", "export again")
        self.seen.add(path)
        self._compare(path.with_suffix(""), facts.get("onnx_sha256"), "export again")

    def _log(self, path: Path) -> None:
        self.seen.add(path)
        damaged = files.damaged_lines(path)
        if damaged:
            lines = ", ".join(map(str, damaged[:5]))
            self.fault(path, f"{path}: line {lines} is not what was written; it is a log, remove the line")

    def _tensors(self, path: Path) -> None:
        facts = files.read_sealed_json(path, "facts of a model", "train again from the checkpoint before")
        self.seen.add(path)
        self._compare(path.with_suffix(".safetensors"), facts.get("sha256"), "train again from the checkpoint before")

    def _manifest_of(self, folder: Path) -> dict[str, Any]:
        if folder not in self.manifests:
            self.manifests[folder] = None
            self.manifests[folder] = files.read_sealed_json(folder / MANIFEST, "a manifest", "run mvad render or mvad pack again")
            self.seen.add(folder / MANIFEST)
        return self.manifests[folder] or {}

    def _compare(self, path: Path, sha256: object, remedy: str) -> None:
        self.seen.add(path)
        try:
            same = files.sha256_file(path) == sha256
            reason = "is not what was written (SHA-256 differs)"
        except OSError as error:
            same, reason = False, f"cannot be read ({error.strerror})"
        if not same and not any(fault.text.startswith(f"{path}:") for fault in self.faults):
            self.fault(path, f"{path}: {reason}; {remedy}")


def _rig_faults(shard: ShardFile) -> list[str]:
    """Return what is wrong with a shard's cameras: poses must be rigid, intrinsics a pinhole's."""
    if "rig/poses" not in shard.layout.fields or "rig/intrinsics" not in shard.layout.fields:
        return []
    poses, intrinsics = shard.read("rig/poses"), shard.read("rig/intrinsics")
    turned = poses[:, :3, :3]
    faults = []
    rigid = np.allclose(turned @ turned.transpose(0, 2, 1), np.eye(3), atol=1e-6) and (np.linalg.det(turned) > 0).all()
    if not np.isfinite(poses).all() or not rigid or not np.array_equal(poses[:, 3], np.tile([0.0, 0, 0, 1], (len(poses), 1))):
        faults.append("rig/poses are not rigid")
    if not np.isfinite(intrinsics).all() or not (intrinsics[:, [0, 1], [0, 1]] > 0).all():
        faults.append("rig/intrinsics have no focal length")
    return faults


def _repair_of(path: Path) -> tuple[Kind, Path]:
    """Tell from a file's name and place which repair it belongs to."""
    if path.name in (FAILED, TIMINGS):
        return "other", path
    for folder in path.parents:
        if (folder / RECORD).exists() or (path.name == RECORD and folder == path.parent):
            return "render", folder
        if (folder / RIG).exists():
            return ("render", path.parent) if path.parent != folder else ("renders", folder)
        if folder.parent.name == "runs":
            return "run", folder
    if path.suffix == ".h5" or path.name in (CARD, MANIFEST):
        return "shards", path.parent
    return "other", path
