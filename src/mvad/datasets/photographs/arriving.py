"""Find new photographed parts, without labels, as those were named that a run was trained on."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from mvad.datasets.folders import visible
from mvad.datasets.photographs.layouts import ONE_VIEW, Layout, Listing, View, is_plain, montage_of, pictures_in, unread_pictures
from mvad.datasets.photographs.pattern import find_by_pattern
from mvad.datasets.scan import NEW, UNKNOWN, SampleRef

_AT_REST_NS = 2_000_000_000
"""Age of a folder's last change from which it cannot have changed again within one tick of the file system's clock."""


def find_new(
    folder: Path, category: str, dataset: str, layout: Layout, views: Iterable[str], skipped: Container[str] = (),
    known: dict[str, int] | None = None,
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
    known
        What earlier calls with this dictionary found of skipped parts; folders that did not change since are not listed again.
    """
    if layout.pattern:
        return find_by_pattern(folder, dataset, category, layout, new=True, skipped=skipped)
    listing = Listing()
    single = list(views) == [ONE_VIEW] or layout.montage != (1, 1)
    for place in _folders_below(folder, () if single else skipped, {} if known is None else known):
        name = _part_name(place, folder)
        inside = "" if place == folder else f"{name}/"
        skip = (lambda file, inside=inside: inside + file.rpartition(".")[0] in skipped) if single and skipped else None
        found, wrong = pictures_in(place, skip)
        listing.problems += wrong if single else []
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


def _folders_below(root: Path, skipped: Container[str], known: dict[str, int]) -> Iterator[Path]:
    """Yield a folder and those in it, sorted, but for hidden and skipped ones.

    A folder that is skipped may hold folders that are parts, so it is listed all the same, unless ``known`` has the time of its last
    change: then it held none and did not change since.
    """
    met = set[tuple[int, int]]()
    waiting = [os.fspath(root)]
    while waiting:
        place = waiting.pop()
        try:
            state = os.stat(place)
            if (state.st_dev, state.st_ino) in met:  # a link back, or a second one
                continue
            met.add((state.st_dev, state.st_ino))
            changed = max(state.st_mtime_ns, state.st_ctime_ns)  # the first can be set, as by tools that copy
            if known.get(place) == changed:
                continue
            with os.scandir(place) as entries:
                inner = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        except OSError:  # removed meanwhile, or not to be read
            continue
        here = Path(place)
        waiting += [os.path.join(place, name) for name in sorted(inner, reverse=True)]
        if _part_name(here, root) not in skipped:  # folders in a part that is decided may be parts
            yield here
        elif not inner and time.time_ns() - changed > _AT_REST_NS:
            known[place] = changed
