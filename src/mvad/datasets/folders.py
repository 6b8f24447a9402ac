"""Folders of raw data as people have them: what is no data, endings in any case, splits and good parts under other names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvad.datasets.scan import GOOD, UNKNOWN
from mvad.errors import BadInput

OTHER_NAMES = {
    "train": ("training",),
    "validation": ("val", "valid"),
    "test": ("testing", "test_public"),
    "private": ("test_private",),
}
"""Other names of the folders of splits; which is the dataset's own, its reader says."""

GOOD_NAMES = {"good", "ok", "okay", "normal", "nodefect", "nodefects", "defectfree", "nonanomalous", "io"}
"""Names of folders of good parts, without capitals, hyphens and the like; ``good`` is the datasets' own."""

_UNREADABLE = {
    "npy",
    "npz",
    "ply",
    "pcd",
    "exr",
    "bmp",
    "gif",
    "webp",
    "jp2",
    "mat",
    "csv",
    "xyz",
    "tif",
    "tiff",
    "png",
    "jpg",
    "jpeg",
}
"""Endings of files that are meant as data: of a kind of which they are not read they are told, not ignored."""


def is_hidden(path: Path, root: Path | None = None) -> bool:
    """Return whether a path is never data: its name, or that of a folder between it and ``root``, begins with a dot.

    Such names are those of macOS (``._000.tiff``, ``.DS_Store``), Jupyter (``.ipynb_checkpoints``), version control and
    editors.

    Examples
    --------
    >>> is_hidden(Path("gear/test/._000.tiff")), is_hidden(Path("/home/me/.data/gear/000.tiff"))
    (True, False)
    >>> is_hidden(Path("raw/.ipynb_checkpoints/xyz/000.tiff"), Path("raw"))
    True
    """
    parts = (path.name,) if root is None else path.relative_to(root).parts
    return any(part.startswith(".") for part in parts)


def visible(paths: Iterable[Path], root: Path | None = None) -> list[Path]:
    """Return the paths that may be data (``is_hidden``), sorted."""
    return sorted(path for path in paths if not is_hidden(path, root))


def check_name(path: Path) -> None:
    """Raise BadInput if a name cannot be part of a scan's key: with control characters, not UTF-8, or as of a file being written."""
    if not path.name.isprintable() or ".part-" in path.name:
        raise BadInput(f"{path.parent}: the name {path.name!a} cannot be that of a scan; rename it, without .part- and the like")


def below(folder: Path) -> Iterator[Path]:
    """Yield the files and folders below a folder that may be data (``is_hidden``), those in linked folders last.

    ``Path.rglob`` does not enter linked folders before Python 3.13, so that data on another disk would be missing without a word.
    What was met already is not met again through a link, nor is what holds the folder. A folder that may not be read, as a disk's
    lost+found, is not entered; of a file nothing is below it.
    """
    waiting, entered = [folder] if folder.is_dir() else [], list[Path]()
    while waiting:
        top = waiting.pop(0)
        real = top.resolve()
        if any(real.is_relative_to(other) or other.is_relative_to(real) for other in entered):
            continue
        entered.append(real)
        yield from _not_through_links(str(top), waiting)


def _not_through_links(folder: str, links: list[Path]) -> Iterator[Path]:
    """Yield what is below a folder, sorted, and add the linked folders to ``links``; plain files are not asked about."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        yield path
        if entry.is_symlink():
            links += [path] if entry.is_dir() else []
        elif entry.is_dir():
            yield from _not_through_links(entry.path, links)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may hold data, sorted; none where there is no such folder."""
    return [path for path in visible(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []


def category_folders(raw: Path) -> list[Path]:
    """Return the folders in a folder that may be categories, sorted: without those that may not be read, as a disk's lost+found."""
    return [folder for folder in visible_folders(raw) if os.access(folder, os.R_OK | os.X_OK)]


@dataclass(frozen=True)
class Named:
    """A folder found under one of its names.

    Attributes
    ----------
    path
        The folder.
    notes
        What is to be told of it: nothing where it has the dataset's own name.
    fault
        Why its scans cannot be taken, or "".
    """

    path: Path
    notes: tuple[str, ...] = ()
    fault: str = ""


def split_folders(root: Path, own: Mapping[str, str]) -> dict[str, Named]:
    """Return the folders of a category's splits by split.

    Parameters
    ----------
    root
        The category's folder.
    own
        The dataset's own name of the folder of each split. Others are accepted with a note: ``OTHER_NAMES``, the split's
        name, and capitals.

    Raises
    ------
    BadInput
        If two folders are the same split.
    """
    found: dict[str, Named] = {}
    folders = visible_folders(root)
    for split, name in own.items():
        accepted = {name, split, *OTHER_NAMES.get(split, ())} - {other for key, other in own.items() if key != split}
        same = [folder for folder in folders if folder.name.lower() in accepted]
        if len(same) > 1:
            listed = " and ".join(folder.name for folder in same)
            raise BadInput(f"{root}: {listed} are both the split {split}; merge them, or remove one")
        for folder in same:
            found[split] = Named(folder, () if folder.name == name else (f"{folder.name} read as {name}",))
    return found


def refuse_other_folders(root: Path, splits: Mapping[str, Named], pattern: str) -> None:
    """Raise BadInput if a folder of a category holds scans (``pattern``, below it) and is none of its splits."""
    known = {split.path for split in splits.values()}
    for folder in visible_folders(root):
        if folder not in known and any(folder.glob(pattern)):
            raise BadInput(f"{folder}: holds scans, but is no split; name it train, validation or test, or move it away")


def holds_data(folder: Path) -> bool:
    """Return whether a folder, or one in it, holds a file that is meant as data by its ending."""
    return any(path.suffix[1:].lower() in _UNREADABLE for path in below(folder))


def means_good(name: str) -> bool:
    """Return whether a folder's name is one of those of good parts."""
    return re.sub(r"[\W\d_]+", "", name.lower()) in GOOD_NAMES


def defect_folders(split: Named, only_good: bool) -> list[tuple[str, Named]]:
    """Return the (defect, folder) of each folder of a split, sorted; good parts may be named otherwise, with a note.

    Parameters
    ----------
    split
        Folder of the split.
    only_good
        Whether the split holds good parts only: those that detectors are trained and calibrated on. Other folders have a fault.

    Raises
    ------
    BadInput
        If two folders hold good parts.
    """
    found: dict[str, Named] = {}
    for folder in visible_folders(split.path):
        check_name(folder)
        defect, notes = folder.name, split.notes
        if means_good(defect) and defect != GOOD:
            defect, notes = GOOD, (*notes, f"{split.path.name}/{folder.name} read as good")
        if defect in found:
            names = f"{found[defect].path.name} and {folder.name}"
            raise BadInput(f"{split.path}: {names} both hold good parts; merge them, or rename the one that does not")
        fault = (
            f"{folder}: {split.path.name} is taken as good parts only; move its scans to test/{defect}, or to good if they are"
        )
        if defect == UNKNOWN:
            fault = f"{folder}: {UNKNOWN} says nothing of its scans; give it the defect's name, or good"
        found[defect] = Named(folder, notes, fault if defect == UNKNOWN or (only_good and defect != GOOD) else "")
    return sorted(found.items())


@dataclass
class Files:
    """Files of one scan.

    Attributes
    ----------
    paths
        File by kind.
    fault
        Why the scan cannot be read, or "".
    """

    paths: dict[str, Path] = field(default_factory=dict)
    fault: str = ""

    def add(self, kind: str, path: Path) -> None:
        """Add a file; a second one of its kind is the scan's fault."""
        if kind in self.paths:
            self.fault = f"{path}: there is {self.paths[kind].name} beside it, of the same scan; remove one"
        else:
            self.paths[kind] = path


def by_stem(folder: Path, endings: Mapping[str, tuple[str, ...]]) -> dict[str, Files]:
    """Return the scans of a folder that has one folder per kind of file: every stem that any of them holds, sorted.

    Parameters
    ----------
    folder
        Holds folders named as the kinds, in capitals or not.
    endings
        Endings that are read, by kind, lower-case without the dot; files may have them in any case. A kind that a scan does
        not have is not in its paths.
    """
    found: dict[str, Files] = {}
    folders = {path.name.lower(): path for path in visible_folders(folder)}
    for kind, accepted in endings.items():
        for path in visible(folders[kind].iterdir()) if kind in folders else ():
            ending = path.suffix[1:].lower()
            if ending not in (_UNREADABLE | set(accepted)) or path.is_dir():
                continue
            check_name(path)
            scan = found.setdefault(path.stem, Files())
            if ending not in accepted:
                scan.fault = scan.fault or f"{path}: not a .{accepted[0]} file, which is what is read of {kind}; convert it"
            else:
                scan.add(kind, path)
    return dict(sorted(found.items()))
