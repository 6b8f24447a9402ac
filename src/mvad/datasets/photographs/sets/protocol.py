"""What a published dataset of photographs provides, and the base of those that lie in MVTec's tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mvad.datasets.folders import category_folders, visible
from mvad.datasets.own.options import NOT_STATED
from mvad.datasets.photographs.layouts import Layout, Listing
from mvad.datasets.photographs.tree import find_tree
from mvad.datasets.scan import GOOD, SampleRef
from mvad.errors import BadInput
from mvad.words import counted

"""Licence of a dataset whose publisher states none that is known here."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")


class PhotographSet(Protocol):
    """Reader of a published dataset of photographs; ``SET`` of its module.

    Attributes
    ----------
    name
        Name of the dataset in commands, and of the folder of its shards.
    licence
        Licence of the dataset and of everything made from it, as known, or ``not stated``.
    modalities
        Default inputs of detectors, of rgb, depth and normal.
    known_categories
        Published categories; others are packed with a notice. Empty: any.
    views
        Number of views of each part.
    layout
        How pictures of new parts are named, for ``mvad predict``; also the montage of the dataset's own pictures.
    picture_size
        Width and height of every picture, pixels; None: any.
    """

    name: str
    licence: str
    modalities: tuple[str, ...]
    known_categories: tuple[str, ...]
    views: int
    layout: Layout
    picture_size: tuple[int, int] | None

    def categories(self, raw: Path) -> list[str]:
        """Return the categories in the folder ``raw``, sorted; none where there is none."""

    def listing(self, raw: Path, category: str) -> Listing:
        """Return the parts of a category, with their published splits, and what is wrong with it; no picture is opened."""


class TreeSet:
    """Base of datasets in MVTec's tree: ``{train,test}/{good,<defect>}/NAME.png``, ``ground_truth/<defect>/NAME_mask.png``.

    Attributes
    ----------
    splits
        Splits that a whole download has.
    skipped
        Folders of a category that ``add_more`` reads.
    has_all_masks
        Whether every defective part has a mask, so that one without is damage.
    """

    name = ""
    licence = NOT_STATED
    modalities: tuple[str, ...] = ("rgb",)
    known_categories: tuple[str, ...] = ()
    views = 1
    layout = Layout()
    picture_size: tuple[int, int] | None = None
    splits: tuple[str, ...] = ("train", "test")
    skipped: tuple[str, ...] = ()
    has_all_masks = True

    def categories(self, raw: Path) -> list[str]:
        """Return the names of folders that hold a folder ``train``, sorted."""
        return [folder.name for folder in category_folders(raw) if (folder / "train").is_dir()]

    def folder(self, raw: Path, category: str) -> Path:
        """Return the folder of a category."""
        return raw / category

    def listing(self, raw: Path, category: str) -> Listing:
        """See ``PhotographSet.listing``.

        Raises
        ------
        BadInput
            If the category is missing.
        """
        root = self.folder(raw, category)
        if not root.is_dir():
            refuse_archive([raw, root.parent], root.name)
            raise BadInput(f"{root}: not found; expected {root.name}/train/good in it, as {self.name} has it")
        listing = find_tree(root, self.name, category, self.layout, self.skipped)
        other = [sample for sample in listing.samples if len(sample.views) != self.views]
        listing.problems += [
            f"{sample.paths[0].parent}: {counted(len(sample.views), 'picture')} of {sample.id}, {self.name} has {self.views} of a part; get it again"
            for sample in other
        ]
        listing.samples = [self.with_masks(root, sample) for sample in listing.samples if len(sample.views) == self.views]
        if self.has_all_masks:
            listing = without_unmasked(listing)
        self.add_more(root, category, listing)
        found = {sample.split for sample in listing.samples}
        listing.problems += [
            f"{root}: holds no part of the split {split}; the download is not whole, get it again"
            for split in self.splits
            if split not in found
        ]
        return listing

    def with_masks(self, root: Path, sample: SampleRef) -> SampleRef:
        """Return a part with the masks that the tree's own rule does not find."""
        return sample

    def add_more(self, root: Path, category: str, listing: Listing) -> None:
        """Add parts of the folders ``skipped``."""


def without_unmasked(listing: Listing) -> Listing:
    """Return a listing without defective parts that have no mask, which are named as problems."""
    lacking = [sample for sample in listing.samples if sample.split == "test" and sample.defect != GOOD and not _has_mask(sample)]
    problems = [f"{sample.paths[0]}: has no mask in ground_truth; the download is not whole, get it again" for sample in lacking]
    left_out = {sample.key for sample in lacking}
    return Listing(
        [sample for sample in listing.samples if sample.key not in left_out], [*listing.problems, *problems], listing.notes
    )


def with_masks(sample: SampleRef, masks: Iterable[Path]) -> SampleRef:
    """Return a part whose views all have these masks, which are united."""
    paths = list(masks)
    if not paths:
        return sample
    return replace(sample, views=[replace(view, mask=paths[0], more_masks=tuple(paths[1:])) for view in sample.views])


def _has_mask(sample: SampleRef) -> bool:
    return any(view.mask is not None for view in sample.views)


def refuse_archive(folders: Iterable[Path], name: str = "") -> None:
    """Raise BadInput if an archive lies in one of the folders; ``name``: one whose name begins so."""
    for folder in dict.fromkeys(folders):
        if not folder.is_dir():
            continue
        archives = [
            path
            for path in visible(folder.iterdir())
            if path.name.lower().endswith(_ARCHIVES) and path.is_file() and path.name.startswith(name)
        ]
        if archives:
            others = f" (and {counted(len(archives) - 1, 'other')})" if len(archives) > 1 else ""
            raise BadInput(f"{archives[0]}: is not unpacked{others}; unpack it into {folder}")
