"""A folder of photographs as a category to pack: what it holds, what is wrong with it, and how its pictures become views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mvad.datasets.masks import RULE
from mvad.datasets.own.options import NOT_STATED
from mvad.datasets.photographs.contents import sample_hash
from mvad.datasets.photographs.framing import CROPS, Framing, fit_framing, view_names
from mvad.datasets.photographs.layouts import (
    MAX_VIEWS,
    Layout,
    Listing,
    group_function,
    is_plain,
)
from mvad.datasets.photographs.pattern import find_by_pattern
from mvad.datasets.photographs.sample import coding_of, read_part
from mvad.datasets.photographs.splits import divide
from mvad.datasets.photographs.table import find_in_table
from mvad.datasets.photographs.tree import find_categories, find_tree, folders_beside
from mvad.datasets.scan import UNKNOWN, SampleRef
from mvad.datasets.shards.schema import PICTURES, Sample
from mvad.datasets.shards.sources import CategorySource, Source
from mvad.errors import BadInput
from mvad.words import check_known

NAME = "folder"
"""Name of a dataset of own photographs, unless it is given another."""
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "um": 1e-6}


@dataclass(frozen=True)
class FolderOptions:
    """How a folder of photographs is read.

    Attributes
    ----------
    name
        Name of the dataset.
    category
        Name of the category; None: that of its folder.
    layout
        How the pictures are named.
    table
        Table of the pictures (CSV, JSONL); None: they are found by their names.
    validation, test
        Shares of good parts to hold out where there is no such split; see ``splits.divide``.
    crop
        ``none`` or ``auto``; see ``framing.fit_framing``.
    unit
        Unit of depth maps: m, cm, mm, um.
    licence
        The user's text.
    size
        Side of a view, pixels.
    jobs
        Pictures that are read at the same time.
    """

    name: str = NAME
    category: str | None = None
    layout: Layout = field(default_factory=Layout)
    table: Path | None = None
    validation: float = 0.2
    test: float = 0.2
    crop: str = "none"
    unit: str = "m"
    licence: str = NOT_STATED
    size: int = 256
    jobs: int = 1


@dataclass(frozen=True)
class FolderCategory:
    """One category of a folder of photographs, found and not read.

    Attributes
    ----------
    name
        The category.
    listing
        Its parts, and what is wrong.
    beside
        What is wrong beside it, one line each: folders of its folder that hold pictures and would not be packed.
    """

    name: str
    listing: Listing
    beside: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """What is wrong in it and beside it, one line each."""
        return [*self.listing.problems, *self.beside]

    @property
    def samples(self) -> list[SampleRef]:
        """Its parts, sorted by key."""
        return sorted(self.listing.samples, key=lambda sample: sample.key)


def find(root: Path, options: FolderOptions) -> list[FolderCategory]:
    """Find the categories of a folder; no picture is opened.

    Raises
    ------
    BadInput
        If the folder or the table is missing, or an option is wrong.
    """
    check_known("--crop", [options.crop], CROPS)
    check_known("--unit", [options.unit], UNITS)
    named = group_function(options.layout.group) if options.layout.group else None
    if options.table is not None or options.layout.pattern:
        if not root.is_dir():
            raise BadInput(f"{root}: not found; give the folder of the photographs")
        places = {options.category or root.resolve().name: root}
    else:
        places = find_categories(root)
        if options.category is not None:
            if len(places) > 1:
                check_known("--category", [options.category], places)
                places = {options.category: places[options.category]}
            else:
                places = {options.category: next(iter(places.values()))}
    found = list[FolderCategory]()
    strangers = [] if options.category or root in places.values() else folders_beside(root, places)
    for category, folder in places.items():
        if options.table is not None:
            listing = find_in_table(options.table, folder, options.name, category, options.layout)
        elif options.layout.pattern:
            listing = find_by_pattern(folder, options.name, category, options.layout)
        else:
            listing = find_tree(folder, options.name, category, options.layout)
        if named is not None:
            listing.samples = [replace(sample, group=sample.group or named(sample.id)) for sample in listing.samples]
        listing = divide(listing, options.validation, options.test)
        listing.problems += _wrong_parts(listing)
        listing.problems += _problems_of(folder, listing.samples)
        found.append(FolderCategory(category, listing, () if found else strangers))
    return found


def _wrong_parts(listing: Listing) -> list[str]:
    """Remove the parts that cannot be packed from a listing; return one line for each."""
    problems, kept, names = [], list[SampleRef](), set[str]()
    for sample in listing.samples:
        place = sample.paths[0]
        views = [view.camera for view in sample.views]
        wrong = next((name for name in (sample.id, sample.defect, *views) if not is_plain(name)), None)
        if wrong is not None:
            problems.append(f"{place.parent}: the name {wrong!a} cannot be that of a part, a defect or a view; rename it")
        elif sample.defect == UNKNOWN and sample.split != "private":
            problems.append(f"{place.parent}: {UNKNOWN} says nothing of the part; give it the defect's name, or good")
        elif sample.key in names:
            problems.append(f"{place}: {sample.key} is the name of another part, too; rename one")
        else:
            names.add(sample.key)
            kept.append(sample)
    known = {view.camera for sample in kept if sample.split == "train" for view in sample.views}
    strange = {sample.key: view for sample in kept for view in sample.views if known and view.camera not in known}
    problems += [
        f"{view.image}: the view {view.camera} is in no training part; add it there, or remove it" for view in strange.values()
    ]
    listing.samples = [sample for sample in kept if sample.key not in strange]
    return problems


def _problems_of(folder: Path, samples: Sequence[SampleRef]) -> list[str]:
    """Return what is wrong with a category as a whole."""
    problems = []
    if not samples:
        return [f"{folder}: no part found; expected train/good/<sample>/<view>.png, or give --pattern or --table"]
    if not any(sample.split == "train" for sample in samples):
        problems.append(f"{folder}: no good training part; expected train/good/<sample>/<view>.png")
    names = view_names(samples)
    if len(names) > MAX_VIEWS:
        problems.append(
            f"{folder}: {len(names)} views ({', '.join(names[:4])} ...) are more than {MAX_VIEWS}; views are named alike in every part, "
            "as top.png and left.png; or give --pattern"
        )
    return problems


def check_sound(found: FolderCategory, partial_accepted: bool = False) -> None:
    """Check that nothing is wrong with a category, or, with ``partial_accepted``, that enough is left to pack.

    Raises
    ------
    BadInput
        If something is; ``found.problems`` has all of it.
    """
    problems = found.problems
    trained = any(sample.split == "train" for sample in found.samples)
    enough = trained and len(view_names(found.samples)) <= MAX_VIEWS
    if not problems or (partial_accepted and enough):
        return
    remedy = "; --partial packs the other parts" if enough else ""
    more = f" (the first of {len(problems)} problems)" if len(problems) > 1 else ""
    raise BadInput(f"{problems[0]}{more}{remedy}")


def category_source(found: FolderCategory, options: FolderOptions) -> CategorySource:
    """Return a category as a source of shards; the framing is fitted here.

    Raises
    ------
    BadInput
        If no training picture can be read.
    """
    samples = found.samples
    fitted = fit_framing(samples, options.size, options.crop, UNITS[options.unit], options.jobs)
    framing = fitted.framing
    views = list(framing.views)
    config = {
        "size": options.size, "resize": "area (box); bilinear where enlarged", "mask_rule": RULE,
        PICTURES: {
            "layout": options.layout.to_json(), "table": None if options.table is None else options.table.name, "crop": options.crop,
            "framing": framing.to_json(), "views": views, "validation": options.validation, "test": options.test,
        },
    }  # fmt: skip
    sources = [Source(ref.key, ref.split, partial(sample_hash, ref), partial(_read, ref, framing)) for ref in samples]
    notes = [{"note": text, "samples": 0, "first": found.name} for text in dict.fromkeys([*found.listing.notes, *fitted.notes])]
    missing = [{"key": line, "reason": "left out", "why": "raw"} for line in found.listing.problems]
    return CategorySource(
        options.name, found.name, options.licence, config, views, options.size, sources, coding_of(framing), missing=missing, notes=notes,
        fields=_fields(framing),
    )  # fmt: skip


def _fields(framing: Framing) -> tuple[str, ...]:
    has = {"rgb": True, "depth": framing.depth_range is not None, "normal": framing.has_normals, "seen": framing.has_seen}
    return tuple(name for name, there in has.items() if there)


def _read(ref: SampleRef, framing: Framing) -> tuple[Sample, str, tuple[str, ...]]:
    part = read_part(ref, framing)
    return part.sample, part.sha256, part.notes


@dataclass(frozen=True)
class Photographs:
    """How photographs become views, as recorded with the shards of a category.

    Attributes
    ----------
    dataset, category
        What it is.
    layout, framing
        How the pictures are named, and how they become views.
    """

    dataset: str
    category: str
    layout: Layout
    framing: Framing

    @classmethod
    def recorded(cls, dataset: str, category: str, config: Mapping[str, Any]) -> Photographs | None:
        """Return what a category's configuration records; None where its views are not photographs of a folder."""
        pictures = config.get(PICTURES)
        if pictures is None:
            return None
        return cls(dataset, category, Layout.from_json(pictures["layout"]), Framing.recorded(pictures))
