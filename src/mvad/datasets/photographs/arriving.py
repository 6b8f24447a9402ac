"""Find new photographed parts, without labels, as those were named that a run was trained on."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from mvad.datasets.folders import visible
from mvad.datasets.photographs.layouts import ONE_VIEW, Layout, Listing, View, is_plain, montage_of, pictures_in, unread_pictures
from mvad.datasets.photographs.pattern import find_by_pattern
from mvad.datasets.scan import NEW, UNKNOWN, SampleRef


def find_new(
    folder: Path, category: str, dataset: str, layout: Layout, views: Iterable[str], skipped: Container[str] = ()
) -> Listing:  # fmt: skip
    """Find parts without labels (``mvad predict``): by the pattern, or every folder, at any depth, that holds pictures.

    Parameters
    ----------
    folder
        The folder.
    category, dataset, layout
        As the parts were packed.
    views
        Names of the views that were packed; where it is that of parts with one picture, each picture is a part.
    skipped
        Names of parts that are not looked at.
    """
    if layout.pattern:
        found_parts = find_by_pattern(folder, dataset, category, layout, new=True)
        found_parts.samples = [sample for sample in found_parts.samples if sample.id not in skipped]
        return found_parts
    listing = Listing()
    single = list(views) == [ONE_VIEW] or layout.montage != (1, 1)
    for place in _folders_below(folder, () if single else skipped):
        found, wrong = pictures_in(place)
        listing.problems += wrong if single else []
        name = _part_name(place, folder)
        fault = wrong[0] if wrong else ""
        if not is_plain(name):
            name, fault = ascii(name), f"{str(place.parent)!a}: the name {name!a} cannot be that of a part; rename it"
        if not single:
            refs = [view.ref(UNKNOWN) for view in found]
            if refs or (fault and unread_pictures(visible(place.iterdir()))):
                listing.samples.append(SampleRef(dataset, category, NEW, UNKNOWN, name, refs, fault=fault))
            continue
        for view in found:
            one = [View(ONE_VIEW, view.image, view.beside).ref(UNKNOWN)]
            part = view.image.relative_to(folder).with_suffix("").as_posix()
            if part in skipped:
                continue
            listing.samples.append(
                SampleRef(dataset, category, NEW, UNKNOWN, part, montage_of(one, layout) if layout.montage != (1, 1) else one)
            )
    return listing


def _part_name(place: Path, root: Path) -> str:
    """Return the name of a new part in a folder: its path below the root."""
    return place.relative_to(root).as_posix() if place != root else root.resolve().name


def _folders_below(root: Path, skipped: Container[str]) -> Iterator[Path]:
    """Yield a folder and those in it, sorted, but for hidden and skipped ones."""
    met = set[Path]()
    for place, inner, _ in os.walk(root, followlinks=True):
        here = Path(place)
        if here.resolve() in met:  # a link back
            inner.clear()
            continue
        met.add(here.resolve())
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if _part_name(here, root) not in skipped:  # folders in a part that is decided may be parts
            yield here
