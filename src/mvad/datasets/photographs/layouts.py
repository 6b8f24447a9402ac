"""Find photographed parts in a folder: the recommended tree, names that follow a pattern, a table, montages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvad.datasets.folders import OTHER_NAMES, is_hidden, visible
from mvad.datasets.photographs.pictures import ENDINGS
from mvad.datasets.scan import ImageRef, SampleRef, Tile
from mvad.errors import BadInput

MAX_VIEWS = 36
ONE_VIEW = "view"
"""Name of the view of parts with one picture."""

ROLES = ("mask", "depth", "normal")
"""What lies beside a picture ``NAME.jpg`` as ``NAME_mask.png``, ``NAME_depth.tiff``, ``NAME_normal.png``."""

_ROLE = re.compile(r"(.+)_(mask|depth|normals?)\Z", re.IGNORECASE)
SPLIT_OF = {name: split for split, names in OTHER_NAMES.items() for name in (split, *names)}


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key by which names sort naturally: C9 before C10, upper and lower case alike.

    Examples
    --------
    >>> sorted(["C10", "c9", "top"], key=natural)
    ['c9', 'C10', 'top']
    """
    parts = re.findall(r"\d+|\D+", name)
    ordered = tuple((0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part.casefold()) for part in parts)
    return (*ordered, (2, 0, name))


# Photographs of kinds that are not read.
_UNREAD = {"heic", "heif", "avif", "gif", "jp2", "jfif", "tga", "pgm", "ppm", "pnm", "cr2", "cr3", "nef", "arw", "dng"}
PICTURE_ENDINGS = frozenset(ENDINGS) | _UNREAD
"""Endings, in lower case and without the dot, of files that are photographs, those of kinds that are not read among them."""


@dataclass(frozen=True)
class Layout:
    """How photographs are named.

    Attributes
    ----------
    pattern
        Pattern of the names of pictures below the folder, with ``{sample}`` and ``{view}``, or as a regular expression with groups
        of these names; ``split``, ``defect`` and ``group`` may be there, too. "": the recommended tree.
    montage
        Columns and rows of views in one picture; (1, 1): each picture is a view.
    group
        Regular expression whose first group, found in a part's name, is its group; "": every part is its own.
    """

    pattern: str = ""
    montage: tuple[int, int] = (1, 1)
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as recorded with the shards."""
        return {"pattern": self.pattern, "montage": list(self.montage), "group": self.group}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """Return what ``to_json`` was called on."""
        columns, rows = map(int, value["montage"])
        return cls(str(value["pattern"]), (columns, rows), str(value["group"]))


@dataclass
class Listing:
    """Parts that were found, and what is wrong with the others.

    Attributes
    ----------
    samples
        The parts, sorted.
    problems
        One line each; nothing of what they name is among the parts.
    notes
        What was decided, one line each.
    """

    samples: list[SampleRef] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_picture(path: Path, root: Path) -> bool:
    """Return whether a file may be a photograph, by its ending; hidden ones are none."""
    return path.suffix[1:].lower() in ENDINGS and not is_hidden(path, root)


def is_unread_picture(path: Path) -> bool:
    """Return whether a file is a photograph of a kind that is not read, by its ending; such are told, not ignored."""
    return path.suffix[1:].lower() in _UNREAD and not is_hidden(path)


def unread_pictures(there: Sequence[Path]) -> list[str]:
    """Return a line for each photograph among a folder's paths that is of a kind that is not read, where no other kind lies beside it."""
    stems = {path.stem.lower() for path in there if is_picture(path, path.parent)}
    return [
        f"{path}: pictures of this kind are not read; save it as PNG or JPEG"
        for path in there
        if is_unread_picture(path) and path.is_file() and path.stem.lower() not in stems
    ]


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by stem, of any ending in any case, PNG first; none where there is no such folder."""
    there = [path for path in visible(folder.iterdir()) if is_picture(path, folder)] if folder.is_dir() else []
    return {path.stem: path for path in sorted(there, key=lambda path: path.suffix.lower() == ".png")}


@dataclass(frozen=True)
class View:
    """A picture with the maps beside it."""

    name: str
    image: Path
    beside: Mapping[str, Path]

    def ref(self, defect: str, extra_mask: Path | None = None) -> ImageRef:
        """Return it as a view of a part; ``extra_mask`` is its mask where none lies beside it."""
        beside = self.beside
        return ImageRef(self.name, self.image, beside.get("mask", extra_mask), defect, beside.get("depth"), beside.get("normal"))


def pictures_in(folder: Path, left_out: Callable[[str], bool] | None = None) -> tuple[list[View], list[str]]:
    """Return the pictures of a folder by their stems, in natural order, with the maps beside them; and what is wrong.

    Where all stems begin with the folder's own name and a separator, views are named without it: ``p7/p7_C1.jpg`` is the view C1.

    ``left_out``: whether a picture of a name is not looked at, nor what lies beside it. It is asked before any path is made, so that a
    folder of 100,000 such pictures is listed in a fraction of a second.
    """
    views: dict[str, Path] = {}
    beside: dict[str, dict[str, Path]] = {}
    names_there = os.listdir(folder)
    if left_out is not None:
        names_there = _without_pictures(names_there, left_out)
    there = visible(folder / name for name in names_there)
    problems = unread_pictures(there)
    for path in there:
        if path.is_dir() or not is_picture(path, folder):
            continue
        role = _ROLE.match(path.stem)
        if role is not None and role[2]:
            stem, kind = role[1], role[2].lower().removesuffix("s")
            if kind in beside.setdefault(stem, {}):
                problems.append(f"{path}: there is {beside[stem][kind].name} beside it, of the same view; remove one")
            beside[stem][kind] = path
        elif path.stem in views:
            problems.append(f"{path}: there is {views[path.stem].name} beside it, of the same view; remove one")
        else:
            views[path.stem] = path
    for stem, kinds in beside.items():
        if stem not in views:
            kind, path = next(iter(kinds.items()))
            problems.append(f"{path}: a {kind} without the picture {stem}.*; give the picture, or remove it")
    names = {stem: _without(folder.name, stem) for stem in views}
    if any(name == stem for stem, name in names.items()):
        names = {stem: stem for stem in views}  # not all begin with the folder's name: it is no prefix
    found = [View(names[stem], path, beside.get(stem, {})) for stem, path in views.items()]
    return sorted(found, key=lambda view: natural(view.name)), problems


def _without_pictures(names: list[str], left_out: Callable[[str], bool]) -> list[str]:
    """Return names of files without those of pictures that are left out, and without the maps beside these."""
    gone = {name.rpartition(".")[0] for name in names if left_out(name)}
    kept = []
    for name in names:
        stem = name.rpartition(".")[0]
        if stem not in gone:
            role = _ROLE.match(stem) if gone else None
            if role is None or role[1] not in gone:
                kept.append(name)
    return kept


def _without(prefix: str, stem: str) -> str:
    rest = stem.removeprefix(prefix)
    return rest[1:] if rest != stem and len(rest) > 1 and rest[0] in "_- ." else stem


def is_plain(name: str) -> bool:
    """Return whether a name can stand in a key: printable, UTF-8, and not that of a file being written."""
    return name.isprintable() and ".part-" not in name


def montage_of(views: list[ImageRef], layout: Layout) -> list[ImageRef]:
    """Return the views of a part whose one picture is a montage."""
    columns, rows = layout.montage
    return [
        replace(view, camera=f"view_{number + 1}", tile=Tile(number, columns, rows))
        for view in views
        for number in range(columns * rows)
    ]


def group_function(group: str) -> Callable[[str], str]:
    r"""Return the function from a part's name to its group by a regular expression; "" where nothing is found.

    Raises
    ------
    BadInput
        If it is no regular expression.

    Examples
    --------
    >>> group_function(r"(batch\\d+)_")("batch7_012")
    'batch7'
    """
    try:
        found = re.compile(group)
    except re.error as error:
        raise BadInput(f"--group {group}: no regular expression ({error})") from error

    def of(name: str) -> str:
        match = found.search(name)
        return "" if match is None else match[1] if found.groups else match[0]

    return of
