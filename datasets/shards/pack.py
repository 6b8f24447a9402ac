"""Renders and photographs into shards: one part of a split at a time, built in memory, written once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvad import __version__, files
from mvad.datasets import realiad
from mvad.datasets.images import read_gray, read_rgb
from mvad.datasets.registry import licence_of
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.renders.layout import RECORD, category_folder
from mvad.datasets.renders.record import read_manifest, read_record, read_sample
from mvad.datasets.scan import GOOD, UNKNOWN, SampleRef
from mvad.datasets.shards.schema import SCHEMA, SCHEMA_VERSION, Sample, build, open_checked
from mvad.errors import BadInput
from mvad.progress import Progress

MANIFEST = "manifest.json"
CARD = "README.md"
WRITTEN = "written.jsonl"
"""Hashes of the shards of a run that has not reached its manifest yet."""
MASK_RULE = "anomalous if any of the pixel was; source > 127 with more than two grey values, else > 0"


@dataclass(frozen=True)
class PackOptions:
    """How shards are made. ``samples_per_shard`` bounds memory: a five-view sample of 256 px is 4 MB."""

    filter: str = "zstd"
    samples_per_shard: int = 128
    size: int = 256
    """Only for photographs; renders keep the size they were rendered in."""


@dataclass(frozen=True)
class _Source:
    """A sample still to be read: its key, its split, the hash that identifies its content, and how to read it."""

    key: str
    split: str
    sha256: str
    read: Callable[[], Sample]


@dataclass(frozen=True)
class _Category:
    dataset: str
    category: str
    licence: str
    config: dict[str, Any]
    views: list[str]
    sources: list[_Source]
    coding: DepthCoding | None = None
    rig: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None


def pack_renders(renders: Path, dataset: str, category: str, shards: Path, options: PackOptions, progress: Progress) -> Path:
    """Pack a rendered category; returns its manifest.

    Raises
    ------
    BadInput
        If the renders are incomplete or were changed since they were made.
    """
    folder = category_folder(renders, dataset, category)
    manifest = read_manifest(folder)
    if not manifest["samples"]:
        raise BadInput(f"{folder}: holds no rendered sample; run mvad render first")
    sources = []
    for entry in manifest["samples"]:
        place = files.inside(folder, f"{entry['split']}/{entry['defect']}/{entry['id']}")
        if not (place / RECORD).exists() or files.sha256_file(place / RECORD) != entry["record_sha256"]:
            raise BadInput(f"{place}: is not what the manifest lists; run the same mvad render again")
        sources.append(_Source(entry["key"], entry["split"], entry["record_sha256"], lambda at=place: _rendered(at)))  # type: ignore[misc]
    rig = manifest["rig"]
    coding = DepthCoding.between(rig["near_m"], rig["far_m"])
    poses, intrinsics = np.array(rig["poses"]), np.array(rig["intrinsics"])
    views = [f"view_{k}" for k in range(len(poses))]
    made = _Category(dataset, category, manifest["licence"], manifest["config"], views, sources, coding, (poses, intrinsics))
    return _pack(made, shards, options, manifest["audit"], progress)


def pack_realiad(raw: Path, category: str, shards: Path, options: PackOptions, progress: Progress) -> Path:
    """Pack a Real-IAD category from its JSON and images; returns its manifest.

    Raises
    ------
    BadInput
        If an image is missing, or the aspect ratio differs within the category.
    """
    if realiad.image_root(raw) is None:
        raise BadInput(f"{raw}: no images; download realiad_256 (or _512, _1024) there, or give --dry-run")
    refs = realiad.refs(raw, category)
    cameras = sorted({view.camera for ref in refs for view in ref.views})
    config = {"size": options.size, "resize": "area (box)", "mask_rule": MASK_RULE}
    sources = [
        _Source(ref.key, ref.split, _hash_images(ref), lambda ref=ref: _photographed(ref, cameras, options.size))  # type: ignore[misc]
        for ref in refs
    ]
    made = _Category(realiad.NAME, category, licence_of(realiad.NAME, raw), config, cameras, sources)
    return _pack(made, shards, options, None, progress)


def _rendered(folder: Path) -> Sample:
    record = read_record(folder)
    sample = read_sample(folder, record)
    views = len(sample.rgb)
    bad = record["defect"] not in (GOOD, UNKNOWN)
    return Sample(
        key=record["key"], defect=record["defect"], label=int(bad), rgb=sample.rgb, mask=sample.mask,
        present=np.ones(views, np.uint8), view_label=np.asarray(sample.mask.any(axis=(1, 2)), dtype=np.uint8),
        depth=sample.depth, normal=sample.normal, source=sample.source,
        shift=np.array(record["rig_shift_m"], dtype=np.float64),
    )  # fmt: skip


def _photographed(ref: SampleRef, cameras: Sequence[str], size: int) -> Sample:
    views = {view.camera: view for view in ref.views}
    rgb = np.zeros((len(cameras), size, size, 3), np.uint8)
    mask = np.zeros((len(cameras), size, size), np.uint8)
    present, view_label = np.zeros(len(cameras), np.uint8), np.zeros(len(cameras), np.uint8)
    for k, camera in enumerate(cameras):
        if camera not in views:
            continue
        view = views[camera]
        image = read_rgb(view.image)
        if image.shape[0] != image.shape[1]:
            raise BadInput(f"{view.image}: {image.shape[1]} x {image.shape[0]} is not square; Real-IAD's views are")
        present[k] = 1
        rgb[k] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
        if view.mask is not None:
            view_label[k] = 1
            mask[k] = any_overlap(binary_mask(read_gray(view.mask)), size)
    return Sample(ref.key, ref.defect, int(view_label.any()), rgb, mask, present, view_label)


def binary_mask(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Threshold a mask: > 127 where soft edges show that it was resized, else > 0 (``formats.md``)."""
    return mask > (127 if len(np.unique(mask)) > 2 else 0)


def any_overlap(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Resize (H, W) bool to (size, size) uint8: 1 where any part of the pixel was true."""
    for axis in (0, 1):
        length = mask.shape[axis]
        lines = []
        for k in range(size):
            first, last = k * length // size, -(-(k + 1) * length // size)
            lines.append(mask.take(range(first, max(last, first + 1)), axis=axis).any(axis=axis))
        mask = np.stack(lines, axis=axis)
    return mask.astype(np.uint8)


def _hash_images(ref: SampleRef) -> str:
    names = [path for view in ref.views for path in (view.image, view.mask) if path is not None]
    try:
        return files.sha256_bytes("".join(files.sha256_file(path) for path in names).encode())
    except OSError as error:
        raise BadInput(f"{error.filename}: not found; download the images of this category again") from error


def _pack(category: _Category, shards: Path, options: PackOptions, audit: Any, progress: Progress) -> Path:
    folder = shards / category.dataset / category.category
    with files.locked(folder):
        splits = sorted({source.split for source in category.sources})
        parts = []
        for split in splits:
            of_split = sorted((s for s in category.sources if s.split == split), key=lambda source: source.key)
            for part, at in enumerate(range(0, len(of_split), options.samples_per_shard)):
                parts.append((split, part, of_split[at : at + options.samples_per_shard]))
        progress.start(f"pack {category.category}", len(category.sources))
        known = _known_hashes(folder)
        listed = []
        for split, part, sources in parts:
            path = folder / f"{split}-{part:05d}.h5"
            attributes = _attributes(category, split, part, sources, options)
            if not _is_current(path, attributes, known):
                content = build([source.read() for source in sources], attributes, category.coding, category.rig, options.filter)
                files.write_bytes(path, content)
                files.append_line(folder / WRITTEN, {"file": path.name, "sha256": files.sha256_bytes(content)})
            listed.append(_entry(path, split))
            progress.advance(len(sources))
        names = {entry["file"] for entry in listed}
        for stale in folder.glob("*.h5"):
            if stale.name not in names:
                stale.unlink()
        manifest = {
            "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dataset": category.dataset,
            "category": category.category, "licence": category.licence, "views": category.views,
            "config": category.config, "audit": audit, "shards": listed,
        }  # fmt: skip
        files.write_text(folder / CARD, _card(manifest))
        files.write_json(folder / MANIFEST, manifest)
        (folder / WRITTEN).unlink(missing_ok=True)
    return folder / MANIFEST


def _attributes(
    category: _Category, split: str, part: int, sources: Sequence[_Source], options: PackOptions
) -> dict[str, str | int]:
    listing = "\n".join(f"{source.key} {source.sha256}" for source in sources) + options.filter
    return {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dataset": category.dataset,
        "category": category.category, "split": split, "part": part, "views": json.dumps(category.views),
        "config": json.dumps(category.config, sort_keys=True), "sources": files.sha256_bytes(listing.encode()),
        "mvad_version": __version__, "licence": category.licence,
    }  # fmt: skip


def _known_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of shards as they were written, by the manifest or by an interrupted run's log."""
    manifest = folder / MANIFEST
    listed = files.read_json(manifest, "a manifest of shards")["shards"] if manifest.exists() else []
    return {str(entry["file"]): str(entry["sha256"]) for entry in [*listed, *files.read_lines(folder / WRITTEN)]}


def _is_current(path: Path, attributes: dict[str, str | int], known: dict[str, str]) -> bool:
    """Tell whether a shard is already what would be written; a damaged or outdated one is not."""
    if not path.exists() or files.sha256_file(path) != known.get(path.name):
        return False
    try:
        with open_checked(path) as file:
            return all(file.attrs.get(name) == value for name, value in attributes.items())
    except BadInput:
        return False


def _entry(path: Path, split: str) -> dict[str, Any]:
    with open_checked(path) as file:
        defects = [text.decode() for text in file["defect"][:]]
        return {
            "file": path.name, "split": split, "samples": len(defects), "bytes": path.stat().st_size,
            "sha256": files.sha256_file(path), "anomalous": int(file["label"][:].sum()),
            "defects": {name: defects.count(name) for name in sorted(set(defects))},
            "views_with_defect": [int(count) for count in file["view_label"][:].sum(axis=0)],
        }  # fmt: skip


def _card(manifest: dict[str, Any]) -> str:
    """Return the dataset card: counts, views, licence, coverage."""
    lines = [
        f"# {manifest['dataset']} / {manifest['category']}",
        "",
        f"Views: {', '.join(manifest['views'])}. Licence of the data: {manifest['licence']}.",
        "Format: " + f"{SCHEMA} {SCHEMA_VERSION}; read it with h5py after `import hdf5plugin`.",
        "",
        "| file | samples | anomalous | defects | SHA-256 |",
        "|---|---|---|---|---|",
    ]
    for entry in manifest["shards"]:
        defects = ", ".join(f"{name} {count}" for name, count in entry["defects"].items())
        lines.append(f"| {entry['file']} | {entry['samples']} | {entry['anomalous']} | {defects} | {entry['sha256'][:16]}… |")
    audit = manifest["audit"]
    if audit and audit["total"]:
        lines += [
            "",
            f"Ground truth: {audit['total']} pixels in {audit['samples_with_defect']} samples; {audit['seen_any']} seen in "
            f"some view, {audit['no_point']} have no 3-D point, {audit['removed']} went with the background, "
            f"{audit['unseen']} are occluded or finer than the views.",
        ]
    return "\n".join(lines) + "\n"
