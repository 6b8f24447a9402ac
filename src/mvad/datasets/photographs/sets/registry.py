"""Find the published datasets of photographs by their modules, and their categories in a folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from mvad.datasets.photographs import sets
from mvad.datasets.photographs.sets.protocol import PhotographSet, refuse_archive
from mvad.errors import BadInput


@cache
def photograph_sets() -> dict[str, PhotographSet]:
    """Return the datasets by name: the modules of this package that have a ``SET``.

    Examples
    --------
    >>> photograph_sets()["mvtecad"].licence
    'CC BY-NC-SA 4.0, MVTec Software GmbH'
    """
    modules = [
        importlib.import_module(f"{sets.__name__}.{module.name}")
        for module in pkgutil.iter_modules(sets.__path__)
        if module.name != "registry"
    ]
    found: list[PhotographSet] = [module.SET for module in modules if hasattr(module, "SET")]
    return {each.name: each for each in found}


def chosen_categories(dataset: str, raw: Path, wanted: Sequence[str] | None = None) -> list[str]:
    """Return the wanted categories of a dataset, or all in the folder ``raw``.

    Raises
    ------
    BadInput
        If the folder is missing or holds no category; an archive that is not unpacked is named.
    UnknownName
        If a wanted one is not there.
    """
    from mvad.datasets import registry

    reader = photograph_sets()[dataset]
    if raw.is_dir() and not reader.categories(raw):
        refuse_archive([raw])
    names = registry.find_categories(reader, raw)
    for name in wanted or ():
        if name not in names:
            refuse_archive([raw, *(path for path in raw.iterdir() if path.is_dir())], name)
    return registry.chosen_categories(reader, raw, wanted)


def set_tasks(
    places: Mapping[str, Path], datasets: Sequence[str] | None, categories: Sequence[str] | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the (dataset, category) pairs that can be packed, and why other datasets cannot.

    Parameters
    ----------
    places
        Folder of the raw data of each dataset.
    datasets
        Datasets that are wanted, which must be there; None: all that are there.
    categories
        Categories that are wanted of any dataset; those of the only dataset must be there.

    Raises
    ------
    BadInput
        If a dataset that is named cannot be read.
    """
    pairs: list[tuple[str, str]] = []
    problems: list[str] = []
    for name, raw in places.items():
        if datasets is None and not raw.is_dir():
            continue
        if datasets is not None and name not in datasets:
            continue
        only = datasets is not None and len(datasets) == 1
        try:
            pairs += [(name, each) for each in chosen_categories(name, raw, categories if only else None)]
        except BadInput as error:
            if datasets is not None:
                raise
            problems.append(str(error))
    return pairs, problems
