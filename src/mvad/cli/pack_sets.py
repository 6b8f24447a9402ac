"""What ``mvad pack`` does with one category: a render, one of Real-IAD, or one of another dataset of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mvad.datasets import realiad
from mvad.errors import BadInput
from mvad.words import counted

if TYPE_CHECKING:
    from mvad.cli.console import Bars
    from mvad.datasets.photographs.published import SetCategory
    from mvad.datasets.shards.pack import PackOptions

_SHOWN = 20
NONE_HELD_OUT = "no training sample is held out, as the published protocols have it, so runs get no threshold; --validation 0.2 holds out a fifth, or mvad train --holdout 0.2 in one run"


@dataclass(frozen=True)
class ToPack:
    """Places and options of ``mvad pack``; ``raws`` has the folder of each dataset of photographs but Real-IAD."""

    renders: Path
    realiad_raw: Path
    raws: Mapping[str, Path]
    shards: Path
    options: PackOptions
    jobs: int
    splits: str | None
    validation: float
    overwrite: bool
    partial: bool

    def check(self, chosen: Sequence[tuple[str, str]]) -> None:
        """Check that what is to be packed has photographs where training samples are to be held out.

        Raises
        ------
        BadInput
            If it has none: the splits of renders are those of their scans.
        """
        if self.validation and not any(dataset in self.raws or dataset == realiad.NAME for dataset, _ in chosen):
            raise BadInput(f"--validation {self.validation:g}: renders keep the splits of their scans; leave the option out")

    def set_category(self, dataset: str, category: str) -> SetCategory:
        """Find a category of a dataset of photographs."""
        from mvad.datasets.photographs.published import find_set_category

        return find_set_category(dataset, self.raws[dataset], category, self.options.size, self.validation, self.jobs)


def known_categories(dataset: str, category: str) -> tuple[str, ...]:
    """Return the published categories of a dataset of photographs; ``category`` itself where they are not to be compared."""
    from mvad.datasets.photographs.sets.registry import photograph_sets

    if dataset == realiad.NAME:
        return realiad.KNOWN_CATEGORIES
    return (photograph_sets()[dataset].known_categories if dataset in photograph_sets() else ()) or (category,)


def dry_run_of(work: ToPack, chosen: Sequence[tuple[str, str]], bars: Bars) -> None:
    """Show what would be packed, and what is wrong with it.

    Raises
    ------
    BadInput
        If something is, and it is not accepted.
    """
    from mvad.cli.contents import contents_table, parts_table
    from mvad.datasets.photographs.framing import header_problems
    from mvad.datasets.shards.contents import count, count_parts

    rows, problems = [], 0
    for dataset, name in chosen:
        if dataset not in work.raws:
            rows += count(work.renders, work.realiad_raw, dataset, name, work.splits, work.validation)
            continue
        each = work.set_category(dataset, name)
        each.found.listing.problems += header_problems(each.found.samples, work.jobs)
        rows += count_parts(dataset, name, each.found.samples)
        bars.show(parts_table(name, each.found.samples))
        for note in each.found.listing.notes:
            bars.tell(f"notice: {note}")
        problems += _tell_problems(each, bars)
    bars.show(contents_table(rows))
    if problems and not work.partial:
        raise BadInput(f"{counted(problems, 'problem')}, as listed above; --partial leaves out what they name")


def _tell_problems(each: SetCategory, bars: Bars) -> int:
    lines = each.found.listing.problems
    for line in lines[:_SHOWN]:
        bars.say(f"problem: {line}")
    if len(lines) > _SHOWN:
        bars.say(f"and {counted(len(lines) - _SHOWN, 'problem')} more")
    return len(lines)


def pack_one(work: ToPack, dataset: str, category: str, bars: Bars) -> Path:
    """Pack one category and return the path of its manifest.

    Raises
    ------
    BadInput
        See ``pack_category``.
    """
    from mvad.datasets.shards.pack import pack_category, pack_realiad, pack_renders

    if dataset == realiad.NAME:
        return pack_realiad(
            work.realiad_raw, category, work.shards, work.options, bars, work.jobs, work.overwrite, work.splits, work.validation
        )
    if dataset not in work.raws:
        return pack_renders(
            work.renders, dataset, category, work.shards, work.options, bars, work.jobs, work.overwrite, work.partial
        )
    each = work.set_category(dataset, category)
    _tell_problems(each, bars)
    each.check(work.partial)
    return pack_category(each.source(), work.shards, work.options, bars, work.jobs, work.overwrite, work.partial)


def tell_of_validation(manifest: Path, bars: Bars) -> None:
    """Say that a category of photographs has no validation split, if it has none, and what that means."""
    from mvad.datasets.registry import photographed
    from mvad.datasets.shards.reader import read_manifest

    packed = read_manifest(manifest.parent)
    if packed["dataset"] in photographed() and not any(entry["split"] == "validation" for entry in packed["shards"]):
        bars.tell(f"notice: {NONE_HELD_OUT}")
