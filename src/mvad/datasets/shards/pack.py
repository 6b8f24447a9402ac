"""Pack a category into shards: threads read and compress samples; each file is built in memory and written once."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mvad import __version__, files
from mvad.datasets.folders import visible
from mvad.datasets.renders.coding import DepthCoding
from mvad.datasets.shards.ahead import made_ahead
from mvad.datasets.shards.build import PackedSample, build, compress
from mvad.datasets.shards.card import card
from mvad.datasets.shards.chunks import check_filter
from mvad.datasets.shards.missing import all_missing, check_complete, members, merged_notes
from mvad.datasets.shards.reader import ShardFile, read_manifest
from mvad.datasets.shards.schema import (
    CARD,
    MANIFEST,
    MAX_CHUNK_BYTES,
    MAX_SAMPLES,
    MODALITIES,
    SCHEMA,
    SCHEMA_VERSION,
    WRITTEN,
    Sample,
    contradiction,
)
from mvad.datasets.shards.sources import CategorySource, Source, photographed_category, rendered_category
from mvad.errors import BadInput
from mvad.progress import Progress
from mvad.settings import key
from mvad.words import check_known

_FIELDS = (*MODALITIES, "source")


@dataclass(frozen=True)
class PackOptions:
    """Options of packing; recorded in each shard."""

    filter: str = key(
        "zstd",
        "Compression. zstd: is read about nine times as fast as a PNG folder and takes 1.3 times its space; lz4: even faster, "
        "but larger; gzip: for readers without hdf5plugin; none: plain bytes.",
    )
    level: int | None = key(
        None,
        "Compression level of zstd or gzip. Default: zstd 6 for colours and masks and zstd 3 for the rest, or gzip 4; for your own "
        "photographs (mvad pack folder) zstd 1. zstd 19 is 8 % smaller and takes nine times as long to pack.",
    )
    fields: tuple[str, ...] = key(
        _FIELDS, "Which of rgb, depth, normal and source to pack, if they exist. Masks are always packed."
    )
    size: int = key(256, "Side of the views of photographs, in pixels. Renders keep their size.")
    shard_mb: float = key(
        512,
        "Greatest size of a file in uncompressed megabytes. It determines the number of samples per file, and so limits memory.",
    )


@dataclass(frozen=True)
class _Part:
    """The samples of one file."""

    split: str
    number: int
    sources: Sequence[Source]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}.h5"


def pack_renders(
    renders: Path, dataset: str, category: str, shards: Path, options: PackOptions, progress: Progress, jobs: int = 1,
    overwrite: bool = False, partial: bool = False,
) -> Path:  # fmt: skip
    """Pack a rendered category and return the path of its manifest; see ``pack_category``."""
    return pack_category(rendered_category(renders, dataset, category), shards, options, progress, jobs, overwrite, partial)


def pack_realiad(
    raw: Path, category: str, shards: Path, options: PackOptions, progress: Progress, jobs: int = 1, overwrite: bool = False,
    splits: str | None = None, validation: float = 0.0, images: str | None = None,
) -> Path:  # fmt: skip
    """Pack a Real-IAD category from its JSON and images, and return the path of its manifest; see ``pack_category``.

    ``splits`` names the folder of split files, see ``realiad.find_splits``; ``validation`` is the share of the good training
    samples to hold out, and ``images`` the folder of images, see ``sources.photographed_category``. A sample of which a picture cannot be read is left
    out; the manifest lists it.
    """
    category_source = photographed_category(raw, category, options.size, splits, validation, images)
    return pack_category(category_source, shards, options, progress, jobs, overwrite)


def pack_category(
    category: CategorySource, shards: Path, options: PackOptions, progress: Progress, jobs: int = 1, overwrite: bool = False,
    partial: bool = False,
) -> Path:  # fmt: skip
    """Write a category's shards, card and manifest; return the path of the manifest.

    Shards that already have the content that would be written are kept, so that a second run continues the first. Which
    samples share a file depends on their keys and sizes alone; any number of ``jobs`` (samples processed at the same time)
    writes the same bytes. The manifest and the card list the samples that are missing, and what was decided in reading the others.

    Raises
    ------
    BadInput
        If the render is not finished and ``partial`` is not set, a render is damaged or inconsistent, no sample can be read, or the folder holds shards of another configuration and
        ``overwrite`` is not set.
    """
    check_filter(options.filter, options.level)
    check_complete(category, partial)
    check_known("--fields", options.fields, _FIELDS)
    if not set(options.fields) & set(MODALITIES):
        raise BadInput(
            f"--fields {','.join(options.fields)}: choose from {', '.join(_FIELDS)}, with at least one of rgb, depth, normal"
        )
    folder = shards / category.dataset / category.category
    with files.locked(folder):
        for leftover in sorted(folder.glob("*.part-*")):
            files.remove(leftover)
        packing = json.loads(json.dumps(asdict(options)))
        if not overwrite:
            _check_same_configuration(folder, {"config": category.config, "packing": packing})
        known = _known_entries(folder, overwrite)
        parts = _parts(category, options)
        with ThreadPoolExecutor(max(jobs, 1), "mvad-pack") as pool:
            if known:
                progress.start(f"compare {category.category}", len(parts))
            entries: dict[str, dict[str, Any]] = {}
            for part in parts:
                kept = _kept(folder, part, category, packing, known, pool)
                entries |= {} if kept is None else {part.name: kept}
                if known:
                    progress.advance()
            todo = [part for part in parts if part.name not in entries]
            done = sum(len(part.sources) for part in parts if part.name in entries)
            progress.start(f"pack {category.category}", len(category.sources), done)
            entries |= _write_all(todo, folder, category, options, packing, pool, jobs, progress)
        failed = {key: reason for entry in entries.values() for key, reason in entry.get("failed", {}).items()}
        written = [entries[part.name] for part in parts if "file" in entries[part.name]]
        if not written:
            raise BadInput(f"{next(iter(failed.values()))} (the first of {len(failed)} samples, none of which can be read)")
        for stale in visible(folder.glob("*.h5")):
            if stale.name not in {entry["file"] for entry in written}:
                files.remove(stale)
        manifest = {
            "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dataset": category.dataset, "category": category.category,
            "licence": category.licence, "views": category.views, "config": category.config, "packing": packing,
            "rig_range": None if category.rig is None else category.rig[2].tolist(),
            "audit": category.audit, "shards": written,
            **members(merged_notes(category, written), all_missing(category, failed)),
        }  # fmt: skip
        text = card(manifest)
        files.write_text(folder / CARD, text)
        files.write_sealed_json(folder / MANIFEST, manifest | {"card_sha256": files.sha256_bytes(text.encode())})
        if (folder / WRITTEN).exists():
            files.remove(folder / WRITTEN)
    return folder / MANIFEST


def _check_same_configuration(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    for group, values in wanted.items():
        was, asked = _flat(manifest.get(group, {})), _flat(json.loads(json.dumps(values)))
        for name in asked if group == "packing" else {**asked, **was}:
            if was.get(name) != asked.get(name):
                before, now = ("none" if value is None else value for value in (was.get(name), asked.get(name)))
                raise BadInput(
                    f"{folder} was packed with {name} = {before}, this run asks for {now}. "
                    "Give --overwrite, or another --workspace."
                )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested members by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _parts(category: CategorySource, options: PackOptions) -> list[_Part]:
    """Divide each split into files by the uncompressed size of a sample, which is the same for all of a category."""
    pixel = {"rgb": 3, "depth": 2, "normal": 3, "source": 4}
    stored = category.fields or (tuple(pixel) if category.rig else ("rgb",))
    bytes_per_pixel = (
        1 + (category.rig is not None or "seen" in stored) + sum(pixel[name] for name in options.fields if name in stored)
    )
    pixels = category.size**2 * len(category.views)
    largest = max((pixel[name] for name in options.fields if name in stored), default=1)
    if pixels * largest > MAX_CHUNK_BYTES:  # a sample's values of a field are one chunk
        raise BadInput(
            f"{category.dataset}/{category.category}: {len(category.views)} views of {category.size} pixels are more than a shard can hold; "
            "give a smaller --size"
        )
    bytes_per_sample = pixels * bytes_per_pixel
    per_file = min(MAX_SAMPLES, max(1, int(options.shard_mb * 1e6 / bytes_per_sample)))
    parts = []
    for split in sorted({source.split for source in category.sources}):
        of_split = [source for source in category.sources if source.split == split]
        parts += [_Part(split, n, of_split[at : at + per_file]) for n, at in enumerate(range(0, len(of_split), per_file))]
    return parts


def _kept(
    folder: Path, part: _Part, category: CategorySource, packing: dict[str, Any], known: dict[str, dict[str, Any]],
    pool: ThreadPoolExecutor,
) -> dict[str, Any] | None:  # fmt: skip
    """Return the entry of a shard that already has the content that would be written, or None."""
    path = folder / part.name
    if not path.exists() or part.name not in known:
        return None
    try:
        shard = ShardFile(path, known[part.name]["sha256"])
        recorded = shard.layout.attributes
        expected = _attributes(category, part, packing, "")
        if any(recorded.get(name) != value for name, value in expected.items() if name != "sources"):
            return None
        hashes = list(pool.map(_hash_of, part.sources))
        if recorded["sources"] != _sources_hash(part, hashes):
            return None
        return _entry(shard, part, **known[part.name])
    except BadInput:
        return None


def _write_all(
    parts: Sequence[_Part], folder: Path, category: CategorySource, options: PackOptions, packing: dict[str, Any],
    pool: ThreadPoolExecutor, jobs: int, progress: Progress,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Read, compress and write files one after the other; while one is written to disk, the next is read."""
    entries: dict[str, Future[dict[str, Any]]] = {}
    sources = (source for part in parts for source in part.sources)
    stream = made_ahead(pool, (partial(_read_and_compress, source, options) for source in sources), jobs)
    with ThreadPoolExecutor(1, "mvad-write") as writer, contextlib.closing(stream):
        for part in parts:
            samples: list[PackedSample] = []
            failed: dict[str, str] = {}
            for source, sample in zip(part.sources, itertools.islice(stream, len(part.sources)), strict=True):
                progress.advance()
                if isinstance(sample, BadInput):
                    if category.rig is not None:
                        raise sample  # a render can be made again
                    failed[source.key] = str(sample)
                    continue
                if samples and sample.shapes != samples[0].shapes:
                    key = sample.values["key"].decode()
                    raise BadInput(f"{key}: its views differ in size from {part.sources[0].key}'s; render again")
                samples.append(sample)
            for previous in entries.values():
                previous.result()  # at most one file waits for the disk, so memory holds two
            entries[part.name] = writer.submit(_write, folder, part, samples, failed, category, options, packing)
            if jobs == 1:
                entries[part.name].result()
        return {name: entry.result() for name, entry in entries.items()}


def _write(
    folder: Path, part: _Part, samples: Sequence[PackedSample], failed: dict[str, str], category: CategorySource,
    options: PackOptions, packing: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write one file and return its entry in the manifest, of which ``failed`` alone remains where no sample could be read."""
    if not samples:
        return {"failed": failed}
    hashes = {sample.values["key"].decode(): sample.sha256 for sample in samples}
    sources = _sources_hash(part, [hashes.get(source.key) or _hash_of(source) for source in part.sources])
    attributes = _attributes(category, part, packing, sources)
    coding: DepthCoding | None = category.coding if "depth" in samples[0].shapes else None
    content = build(samples, attributes, coding, category.rig, options.filter, options.level)
    path, sha256 = folder / part.name, files.sha256_bytes(content)
    if not path.exists() or files.sha256_file(path) != sha256:  # it may be complete where the manifest is missing
        files.write_bytes(path, content)
    notes: dict[str, list[str]] = {}
    for sample in samples:
        for note in sample.notes:
            notes.setdefault(note, []).append(sample.values["key"].decode())
    told = ({"notes": notes} if notes else {}) | ({"failed": failed} if failed else {})
    files.append_line(folder / WRITTEN, {"file": path.name, "sha256": sha256, **told})
    shard = ShardFile(path, sha256)  # checks that the file can be read
    return _entry(shard, part, sha256, **told)


def _read_and_compress(source: Source, options: PackOptions) -> PackedSample | BadInput:
    try:
        sample, sha256, notes = source.read()
        inconsistency = contradiction(sample)
        if inconsistency:
            raise BadInput(f"{source.key}: {inconsistency}; render it again, or download it again")
        return compress(_with_fields(sample, options.fields), sha256, options.filter, options.level, notes)
    except BadInput as error:
        return error


def _with_fields(sample: Sample, fields: Sequence[str]) -> Sample:
    return replace(sample, **{name: None for name in _FIELDS if name not in fields})  # type: ignore[arg-type]


def _attributes(category: CategorySource, part: _Part, packing: dict[str, Any], sources: str) -> dict[str, str | int]:
    return {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dataset": category.dataset, "category": category.category,
        "split": part.split, "part": part.number, "views": json.dumps(category.views),
        "config": json.dumps(category.config, sort_keys=True), "packing": json.dumps(packing, sort_keys=True),
        "sources": sources, "mvad_version": __version__, "licence": category.licence,
    }  # fmt: skip


def _sources_hash(part: _Part, hashes: Sequence[str]) -> str:
    lines = [f"{source.key} {sha256}" for source, sha256 in zip(part.sources, hashes, strict=True)]
    return files.sha256_bytes("\n".join(lines).encode())


def _hash_of(source: Source) -> str:
    """Return the hash of a sample's files, or a text that is none where they cannot be read."""
    try:
        return source.sha256()
    except BadInput:
        return "unreadable"


def _known_entries(folder: Path, overwrite: bool) -> dict[str, dict[str, Any]]:
    """Return hash, notes and failures of written shards by file name, from the manifest or from an interrupted run's log."""
    try:
        listed = read_manifest(folder)["shards"] if (folder / MANIFEST).exists() else []
    except BadInput:
        if not overwrite:
            raise
        listed = []
    told = ("sha256", "notes", "failed")
    entries = [*listed, *files.read_lines(folder / WRITTEN)]
    return {str(entry["file"]): {name: entry[name] for name in told if name in entry} for entry in entries}


def _entry(shard: ShardFile, part: _Part, sha256: str, **told: Any) -> dict[str, Any]:
    defects, path = shard.texts("defect"), shard.path
    fields = {
        name: {"shape": list(field.shape), "bytes": sum(length for _, length in field.chunks)}
        for name, field in shard.layout.fields.items()
    }
    numbers = Counter(shard.read("pose_number").tolist()) if "pose_number" in fields else {}
    return {
        "file": path.name, "split": part.split, "samples": len(defects), "bytes": path.stat().st_size, "sha256": sha256,
        "fields": fields, "anomalous": int(shard.read("label").sum()),
        "defects": {name: defects.count(name) for name in sorted(set(defects))},
        "pose_numbers": {str(number): numbers[number] for number in sorted(numbers)},
        "views_with_defect": [int(count) for count in shard.read("view_label").sum(axis=0)], **told,
    }  # fmt: skip
