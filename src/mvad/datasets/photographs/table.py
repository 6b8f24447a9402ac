"""Find photographed parts in a table: CSV or JSON lines with one picture per row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvad.datasets.folders import GOOD_NAMES, means_good
from mvad.datasets.photographs.layouts import Layout, Listing, montage_of, natural
from mvad.datasets.scan import GOOD, ImageRef, SampleRef
from mvad.errors import BadInput
from mvad.words import counted

COLUMNS: dict[str, tuple[str, ...]] = {
    "sample": ("sample", "sample_id", "group_id"),
    "view": ("view", "view_id", "meta.view_id", "camera", "camera_id"),
    "split": ("split",),
    "defect": ("defect", "label", "meta.condition", "anomaly_class"),
    "image": ("image", "image_path", "path", "filepath"),
    "mask": ("mask", "mask_path"),
    "depth": ("depth", "depth_path"),
    "normal": ("normal", "normal_path"),
    "group": ("group",),
}
"""Columns, and the names that each may have; the first that is there counts. The others are those of pyimgano's manifest."""

_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test", "": "",
}  # fmt: skip
_GOOD = {"", "0", "false", *GOOD_NAMES}
_BAD = {"1": "defect", "true": "defect", "anomaly": "defect", "anomalous": "defect"}
MAX_ROWS = 5_000_000


def find_in_table(table: Path, root: Path, dataset: str, category: str, layout: Layout) -> Listing:
    """Find the parts of a table; paths in it are relative to ``root``.

    Every row is a picture: ``sample,view,split,defect,image,mask,depth,normal,group``, of which ``sample`` and ``image`` must be
    there. An empty split is divided later, an empty defect is good. A part with a wrong row is left out as a whole.

    Raises
    ------
    BadInput
        If the table cannot be read, or lacks a column.
    """
    listing = Listing()
    parts: dict[tuple[str, str, str], dict[str, ImageRef]] = {}
    groups: dict[tuple[str, str, str], str] = {}
    owners: dict[str, tuple[str, str, str]] = {}
    wrong = set()
    for where, row in _rows(table):
        problem = _add_row(row, root, parts, groups, owners)
        if problem:
            listing.problems.append(f"{table}: {where}: {problem}")
            wrong.add(row["sample"].strip().replace("/", "_"))
    for key, views in sorted(parts.items()):
        split, defect, name = key
        if name in wrong:
            continue
        refs = [views[view] for view in sorted(views, key=natural)]
        if layout.montage != (1, 1):
            if len(refs) > 1:
                listing.problems.append(f"{table}: {name} has {counted(len(refs), 'picture')}; with --montage a part is one")
                continue
            refs = montage_of(refs, layout)
        listing.samples.append(SampleRef(dataset, category, split, defect, name, refs, groups[key]))
    return listing


def _add_row(
    row: Mapping[str, str], root: Path, parts: dict[tuple[str, str, str], dict[str, ImageRef]],
    groups: dict[tuple[str, str, str], str], owners: dict[str, tuple[str, str, str]],
) -> str:  # fmt: skip
    """Add a row's picture to its part; return what is wrong with it, or ""."""
    name, image, view = row["sample"].strip(), row["image"].strip(), row.get("view", "").strip() or "view"
    if not name or not image:
        return "expected sample and image; fill them in, or remove the row"
    split = _SPLITS.get(row.get("split", "").strip().lower())
    if split is None:
        return f"the split {row['split']!r} is none of train, validation, test"
    told = row.get("defect", "").strip()
    number = re.sub(r"\.0+$", "", told.lower())  # as tables with gaps write whole numbers
    defect = GOOD if number in _GOOD or means_good(told) else _BAD.get(number, told).replace("/", "_")
    if split in ("train", "validation") and defect != GOOD:
        return f"{split} takes good parts only, {name} is labelled {told}; give it the split test"
    key = (split, defect, name.replace("/", "_"))
    if owners.setdefault(key[2], key) != key:
        other = owners[key[2]]
        return f"{name} is {other[0] or 'without split'} and {other[1]} in another row; give all its rows one split and defect"
    if view in parts.get(key, {}):
        return f"the view {view} of {name} is listed twice; remove one"
    found: dict[str, Path | None] = {}
    for kind in ("image", "mask", "depth", "normal"):
        text = row.get(kind, "").strip().replace("\\", "/")
        path = None if not text else Path(text) if Path(text).is_absolute() else root / text
        if path is not None and not path.is_file():
            return f"{path} not found; paths are relative to {root}"
        found[kind] = path
    picture = found["image"]
    if picture is None:
        return "expected image; fill it in, or remove the row"
    parts.setdefault(key, {})[view] = ImageRef(view, picture, found["mask"], defect, found["depth"], found["normal"])
    groups[key] = row.get("group", "").strip() or groups.get(key, "")
    return ""


def _rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield place and cells of each row by our names of the columns."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{table}: not found; give --table a CSV or JSONL file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{table}: not readable as UTF-8 text ({error}); save it so") from error
    is_csv = table.suffix.lower() not in (".jsonl", ".ndjson", ".json")
    columns: dict[str, str] | None = None
    for number, (where, row) in enumerate(_csv(table, text) if is_csv else _json_lines(table, text)):
        if number >= MAX_ROWS:
            raise BadInput(f"{table}: has more than {MAX_ROWS} rows; divide it")
        if columns is None or not is_csv:
            columns = {ours: other for ours, names in COLUMNS.items() for other in reversed(names) if other in row}
            lacking = [name for name in ("sample", "image") if name not in columns]
            if lacking:
                raise BadInput(
                    f"{table}: {where}: has no {lacking[0]}; expected the columns {', '.join(COLUMNS)}, of which sample and image must be there"
                )
        yield where, {ours: "" if row.get(theirs) is None else str(row[theirs]) for ours, theirs in columns.items()}
    if columns is None:
        raise BadInput(f"{table}: has no row; expected the columns {', '.join(COLUMNS)}")


def _csv(table: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    try:
        for row in reader:
            yield (
                f"line {reader.line_num}",
                {(name or "").strip().lower(): value for name, value in row.items() if name is not None},
            )
    except csv.Error as error:
        raise BadInput(f"{table}: line {reader.line_num}: not readable as CSV ({error})") from error


def _json_lines(table: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{table}: line {number}: not readable as JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadInput(f"{table}: line {number}: expected an object with sample, view, image and the like")
        meta = row.get("meta")
        yield f"line {number}", row | ({f"meta.{name}": value for name, value in meta.items()} if isinstance(meta, dict) else {})
