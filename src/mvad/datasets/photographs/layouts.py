"""Find photographed parts in a folder: the recommended tree, names that follow a pattern, a table, montages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvad.datasets.folders import GOOD_NAMES, OTHER_NAMES, is_hidden, visible
from mvad.datasets.photographs.pictures import ENDINGS
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, ImageRef, SampleRef, Tile
from mvad.errors import BadInput
from mvad.words import counted

MAX_VIEWS = 36
ONE_VIEW = "view"
"""Name of the view of parts with one picture."""

ROLES = ("mask", "depth", "normal")
"""What lies beside a picture ``NAME.jpg`` as ``NAME_mask.png``, ``NAME_depth.tiff``, ``NAME_normal.png``."""

_ROLE = re.compile(r"(.+)_(mask|depth|normals?)\Z", re.IGNORECASE)
SPLIT_OF = {name: split for split, names in OTHER_NAMES.items() for name in (split, *names)}
_FIELDS = {"sample": r"[^/]+?", "view": r"[^/]+?", "split": r"[^/]+?", "defect": r"[^/]+?", "group": r"[^/]+?"}
"""Names in a pattern, and what each may be."""


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


def expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern, which matches a whole path below the folder, with ``/`` between names.

    A pattern that has no ``(?P<`` is a template: ``{sample}_{view}.jpg``; all else in it is literal, but ``*`` is any text.

    Raises
    ------
    BadInput
        If it is no regular expression, or names no sample or no view.

    Examples
    --------
    >>> expression("{sample}_{view}.jpg").fullmatch("a_1_C2.jpg").groupdict()
    {'sample': 'a_1', 'view': 'C2'}
    """
    text = pattern
    if "(?P<" not in pattern:
        pieces = re.split(r"(\{\w+\}|\*)", pattern)
        unknown = [piece for piece in pieces if piece.startswith("{") and piece[1:-1] not in _FIELDS]
        if unknown:
            raise BadInput(f"--pattern {pattern}: {unknown[0]} is none of {', '.join('{' + name + '}' for name in _FIELDS)}")
        text = "".join(_template(piece) for piece in pieces)
    try:
        found = re.compile(text)
    except re.error as error:
        raise BadInput(
            f"--pattern {pattern}: no regular expression ({error}); give one, or a template such as {{sample}}_{{view}}.jpg"
        ) from error
    lacking = [name for name in ("sample", "view") if name not in found.groupindex]
    if lacking:
        raise BadInput(f"--pattern {pattern}: names no {lacking[0]}; give {{{lacking[0]}}} in it, or (?P<{lacking[0]}>...)")
    return found


def _template(piece: str) -> str:
    if piece == "*":
        return "[^/]*"
    if not piece.startswith("{"):
        return re.escape(piece)
    name = piece[1:-1]
    return f"(?P<{name}>[^/]+)" if name == "sample" else f"(?P<{name}>{_FIELDS[name]})"


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


def pictures_in(folder: Path) -> tuple[list[View], list[str]]:
    """Return the pictures of a folder by their stems, in natural order, with the maps beside them; and what is wrong.

    A stem that begins with the folder's own name and a separator is a view without it: ``p7/p7_C1.jpg`` is the view C1.
    """
    views: dict[str, Path] = {}
    beside: dict[str, dict[str, Path]] = {}
    problems = []
    for path in visible(folder.iterdir()):
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
    found = [View(_without(folder.name, stem), path, beside.get(stem, {})) for stem, path in views.items()]
    return sorted(found, key=lambda view: natural(view.name)), problems


def _without(prefix: str, stem: str) -> str:
    rest = stem.removeprefix(prefix)
    return rest[1:] if rest != stem and len(rest) > 1 and rest[0] in "_- ." else stem


def means_good(name: str) -> bool:
    """Return whether a folder's name is one of those of good parts."""
    return re.sub(r"[^a-z]", "", name.lower()) in GOOD_NAMES


def montage_of(views: list[ImageRef], layout: Layout) -> list[ImageRef]:
    """Return the views of a part whose one picture is a montage."""
    columns, rows = layout.montage
    return [
        replace(view, camera=f"view_{number + 1}", tile=Tile(number, columns, rows))
        for view in views
        for number in range(columns * rows)
    ]


def find_by_pattern(root: Path, dataset: str, category: str, layout: Layout, new: bool = False) -> Listing:
    """Find the parts whose pictures' paths below a folder match a pattern; ``new``: parts without labels, of split ``new``."""
    listing, found = Listing(), expression(layout.pattern)
    parts: dict[tuple[str, str, str], dict[str, View]] = {}
    groups: dict[tuple[str, str, str], str] = {}
    faults: dict[tuple[str, str, str], str] = {}
    unmatched, named_defect = [], "defect" in found.groupindex
    for folder in sorted({path.parent for path in root.rglob("*") if path.is_file() and is_picture(path, root)}):
        views, wrong = pictures_in(folder)
        listing.problems += wrong
        for view in views:
            relative = view.image.relative_to(root)
            match = found.fullmatch(relative.as_posix()) or (
                found.fullmatch(relative.name) if "/" not in layout.pattern else None
            )
            if match is None:
                unmatched.append(view.image)
                continue
            names = {name: value for name, value in match.groupdict().items() if value is not None}
            split, defect = (NEW, UNKNOWN) if new else _labels(names, relative)
            key = (split, defect, names["sample"].replace("/", "_"))
            if names["view"] in parts.setdefault(key, {}):
                other = parts[key][names["view"]].image
                faults[key] = f"{view.image}: {other} is view {names['view']} of {names['sample']}, too; remove one"
                continue
            parts[key][names["view"]] = replace(view, name=names["view"])
            groups[key] = names.get("group", "")
    if unmatched:
        listing.problems.append(
            f"{unmatched[0]}: {counted(len(unmatched), 'picture')} do not match --pattern {layout.pattern}; mend it, or move them away"
        )
    if not named_defect and not new and parts and {key[1] for key in parts} == {GOOD}:
        listing.notes.append("the pattern names no defect: all parts are taken as good")
    listing.problems += [] if new else faults.values()
    for (split, defect, name), views_of in sorted(parts.items()):
        fault = faults.get((split, defect, name), "")
        if fault and not new:
            continue
        refs = [view.ref(defect) for view in sorted(views_of.values(), key=lambda view: natural(view.name))]
        listing.samples.append(SampleRef(dataset, category, split, defect, name, refs, groups[split, defect, name], fault=fault))
    return listing


def _labels(names: Mapping[str, str], relative: Path) -> tuple[str, str]:
    """Return split ("" where none is given) and defect of a picture, from its pattern or from the folders that it lies in."""
    folders = list(relative.parts[:-1])
    split = names.get("split", next((name for name in folders if name.lower() in SPLIT_OF), ""))
    if split and split.lower() not in SPLIT_OF:
        split = ""
    defect = names.get("defect", next((GOOD for name in folders if means_good(name)), GOOD))
    return SPLIT_OF.get(split.lower(), ""), GOOD if means_good(defect) else defect


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
