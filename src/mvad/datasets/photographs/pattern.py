"""Find photographed parts whose pictures' names follow a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mvad.datasets.folders import below, means_good
from mvad.datasets.photographs.layouts import PICTURE_ENDINGS, SPLIT_OF, Layout, Listing, View, natural, pictures_in
from mvad.datasets.scan import GOOD, NEW, UNKNOWN, SampleRef
from mvad.errors import BadInput

_FIELDS = {"sample": r"[^/]+?", "view": r"[^/]+?", "split": r"[^/]+?", "defect": r"[^/]+?", "group": r"[^/]+?"}
"""Names in a pattern, and what each may be."""


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


def find_by_pattern(
    root: Path, dataset: str, category: str, layout: Layout, new: bool = False, skipped: Container[str] = ()
) -> Listing:
    """Find the parts whose pictures' paths below a folder match a pattern; ``new``: parts without labels, of split ``new``.

    Pictures of parts whose names are in ``skipped`` are not looked at.

    Split and defect are taken from the pattern, else from the folders that a picture lies in, where these are named as splits and
    good parts are.
    """
    listing, found = Listing(), expression(layout.pattern)
    parts: dict[tuple[str, str, str], dict[str, View]] = {}
    groups: dict[tuple[str, str, str], str] = {}
    faults: dict[tuple[str, str, str], str] = {}
    unmatched, matched = list[Path](), list[tuple[View, dict[str, str], list[str]]]()

    def match_of(relative: str) -> re.Match[str] | None:
        match = found.fullmatch(relative)
        return match or (found.fullmatch(relative.rpartition("/")[2]) if "/" not in layout.pattern else None)

    def is_skipped(relative: str) -> bool:
        match = match_of(relative)
        return match is not None and match["sample"].replace("/", "_") in skipped

    places = {
        path.parent
        for path in below(root)
        if path.suffix[1:].lower() in PICTURE_ENDINGS
        and not (skipped and is_skipped(path.relative_to(root).as_posix()))
        and path.is_file()
    }
    for folder in sorted(places):
        inside = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        views, wrong = pictures_in(folder, partial(_is_in, is_skipped, inside) if skipped else None)
        listing.problems += wrong
        for view in views:
            relative = view.image.relative_to(root)
            match = match_of(relative.as_posix())
            if match is None:
                unmatched.append(view.image)
            else:
                names = {name: value for name, value in match.groupdict().items() if value is not None}
                matched.append((view, names, _free_folders(match, relative)))
    labelled = any(means_good(name) for _, _, folders in matched for name in folders)
    for view, names, folders in matched:
        split, defect, fault = (NEW, UNKNOWN, "") if new else _labels(names, folders, labelled)
        if fault:
            listing.problems.append(f"{view.image}: {fault}")
            continue
        key = (split, defect, names["sample"].replace("/", "_"))
        if names["view"] in parts.setdefault(key, {}):
            other = parts[key][names["view"]].image
            faults[key] = f"{view.image}: {other} is view {names['view']} of {names['sample']}, too; remove one"
            continue
        parts[key][names["view"]] = replace(view, name=names["view"])
        groups[key] = names.get("group", "")
    if unmatched:
        what = "picture does" if len(unmatched) == 1 else "pictures do"
        listing.problems.append(
            f"{unmatched[0]}: {len(unmatched)} {what} not match --pattern {layout.pattern}; mend it, or move {'it' if len(unmatched) == 1 else 'them'} away"
        )
    if "defect" not in found.groupindex and not new and parts and {key[1] for key in parts} == {GOOD}:
        listing.notes.append("neither the pattern nor the folders name a defect: all parts are taken as good")
    listing.problems += [] if new else faults.values()
    for (split, defect, name), views_of in sorted(parts.items()):
        fault = faults.get((split, defect, name), "")
        if fault and not new:
            continue
        refs = [view.ref(defect) for view in sorted(views_of.values(), key=lambda view: natural(view.name))]
        listing.samples.append(SampleRef(dataset, category, split, defect, name, refs, groups[split, defect, name], fault=fault))
    return listing


def _is_in(is_skipped: Callable[[str], bool], inside: str, name: str) -> bool:
    return is_skipped(inside + name)


def _free_folders(match: re.Match[str], relative: Path) -> list[str]:
    """Return the folders of a path that the pattern does not name: those of a sample, view, split or group are no defect."""
    if match.string != relative.as_posix():
        return list(relative.parts[:-1])
    named = [match.span(name) for name, value in match.groupdict().items() if value and name != "defect" and "/" not in value]
    free, start = [], 0
    for folder in relative.parts[:-1]:
        end = start + len(folder)
        if not any(first < end and start < last for first, last in named):
            free.append(folder)
        start = end + 1
    return free


def _labels(names: Mapping[str, str], folders: list[str], labelled: bool) -> tuple[str, str, str]:
    """Return split ("" where none is given) and defect of a picture, and what is wrong with them.

    ``labelled``: folders of good parts are among those of the pictures, so that the other folders are defects.
    """
    told = names.get("split", next((name for name in folders if name.lower() in SPLIT_OF), ""))
    split = SPLIT_OF.get(told.lower(), "")
    if told and not split:
        return "", "", f"the split {told} is none of {', '.join(SPLIT_OF)}; rename it"
    others = [name for name in folders if name.lower() not in SPLIT_OF]
    if "defect" in names:
        defect = names["defect"]
    elif any(means_good(name) for name in others) or not others or not (labelled or split):
        defect = GOOD
    else:
        defect = others[0]
    defect = GOOD if means_good(defect) else defect
    if split in ("train", "validation") and defect != GOOD:
        return "", "", f"{split} takes good parts only, this is {defect}; move it to test, or name {{defect}} in the pattern"
    return split, defect, ""
