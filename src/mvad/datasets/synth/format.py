"""What a generator of a dataset provides; each stands at the end of its module as ``FORMAT``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mvad.datasets.synth.plan import PlannedSample


def category_below(raw: Path, name: str) -> Path:
    """Return the folder of a category where datasets keep each below the download."""
    return raw / name


@dataclass(frozen=True)
class Format:
    """The on-disk format of a generated dataset.

    Attributes
    ----------
    defects
        Kinds of defects it has.
    write
        Writes a planned sample of a side in pixels below a category's folder.
    write_category
        Writes what a category has besides its samples.
    root
        Returns the folder of a category.
    has_validation
        Whether it has a validation split.
    name
        Name of the dataset; "": that of the module.
    own_categories
        Categories that only this dataset has, with the kinds of defects of each.
    """

    defects: tuple[str, ...]
    write: Callable[[PlannedSample, Path, int], None]
    write_category: Callable[[Path, int], None]
    root: Callable[[Path, str], Path] = category_below
    has_validation: bool = True
    name: str = ""
    own_categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
