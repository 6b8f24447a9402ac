"""Pack a category of a published dataset of photographs, as a folder of own photographs is packed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mvad.datasets.photographs.category import FolderCategory, FolderOptions, category_source, check_sound
from mvad.datasets.photographs.framing import header_problems
from mvad.datasets.photographs.pictures import read_header
from mvad.datasets.photographs.sets.protocol import PhotographSet
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.photographs.splits import divide
from mvad.datasets.registry import licence_of
from mvad.datasets.scan import SampleRef
from mvad.datasets.shards.pack import PackOptions, pack_category
from mvad.datasets.shards.sources import CategorySource
from mvad.errors import BadInput
from mvad.progress import Progress
from mvad.words import counted


@dataclass(frozen=True)
class SetCategory:
    """A category of a published dataset, found and not read, and how it is packed."""

    found: FolderCategory
    options: FolderOptions

    def check(self, partial: bool = False) -> None:
        """Check that it can be packed; see ``category.check_sound``."""
        check_sound(self.found, partial)

    def source(self) -> CategorySource:
        """Return it as a source of shards; the framing is fitted here.

        Raises
        ------
        BadInput
            If no training picture can be read; the message says what is wrong with the first.
        """
        try:
            return category_source(self.found, self.options)
        except BadInput as error:
            training = [sample for sample in self.found.samples if sample.split == "train"]
            unreadable = header_problems(training, self.options.jobs)
            if unreadable and len(unreadable) == len(training):
                raise BadInput(
                    f"{unreadable[0]} (the first of {counted(len(training), 'training part')}, none of which can be read)"
                ) from error
            raise


def find_set_category(
    dataset: str, raw: Path, category: str, size: int, validation: float = 0.0, jobs: int = 1
) -> SetCategory:  # fmt: skip
    """Find the parts of a category of a published dataset; only headers are read, where all pictures must have one size.

    Parameters
    ----------
    dataset, raw, category
        Name of the dataset, its folder, and one of its categories.
    size
        Side of a view, pixels.
    validation
        Share of the training parts to hold out, where the category has no published validation split; 0: none, so that training
        has what the published protocols train on.
    jobs
        Pictures that are read at the same time.

    Raises
    ------
    BadInput
        If the category cannot be found.
    """
    chosen = photograph_sets()[dataset]
    listing = chosen.listing(raw, category)
    own = any(sample.split == "validation" for sample in listing.samples)
    if own and validation:
        listing.notes.append("the validation split is the published one, nothing else is held out")
        validation = 0.0
    if chosen.picture_size is not None:
        faults = _of_another_size(listing.samples, chosen, jobs)
        listing.samples = [sample for sample in listing.samples if sample.key not in faults]
        listing.problems += faults.values()
    if not listing.problems and not any(sample.split == "train" for sample in listing.samples):
        listing.problems.append(f"{raw}: {category} has no training part; the download is not whole, get it again")
    listing = divide(listing, validation, 0.0)
    options = FolderOptions(
        dataset, category, chosen.layout, None, validation, 0.0, licence=licence_of(dataset, raw), size=size, jobs=jobs
    )
    return SetCategory(FolderCategory(category, listing), options)


def pack_set(
    raw: Path, dataset: str, category: str, shards: Path, options: PackOptions, progress: Progress, jobs: int = 1,
    overwrite: bool = False, partial: bool = False, validation: float = 0.0,
) -> Path:  # fmt: skip
    """Pack a category of a published dataset, and return the path of its manifest; see ``pack_category``.

    Raises
    ------
    BadInput
        See ``find_set_category`` and ``pack_category``; with ``partial`` what is wrong is left out.
    """
    each = find_set_category(dataset, raw, category, options.size, validation, jobs)
    each.check(partial)
    return pack_category(each.source(), shards, options, progress, jobs, overwrite, partial)


def _of_another_size(samples: list[SampleRef], chosen: PhotographSet, jobs: int) -> dict[str, str]:
    """Return what is said of each part of which a picture has not the size that all have; damaged ones are told when read."""
    expected = chosen.picture_size

    def fault(sample: SampleRef) -> str:
        for path in dict.fromkeys(view.image for view in sample.views):
            try:
                header = read_header(path)
            except BadInput:
                continue
            if (header.width, header.height) != expected and expected is not None:
                found = f"{header.width} x {header.height}"
                return f"{path}: {found} pixels, {chosen.name}'s pictures have {expected[0]} x {expected[1]}; get it again"
        return ""

    with ThreadPoolExecutor(max(jobs, 1), "mvad-size") as pool:
        faults = zip(samples, pool.map(fault, samples), strict=True)
        return {sample.key: text for sample, text in faults if text}
