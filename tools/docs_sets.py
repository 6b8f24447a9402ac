"""The page on published datasets, ``docs/sets.md``, from their readers: see ``docs.py``."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from mvad.datasets import realiad
from mvad.datasets.own.options import READER
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.registry import SCAN_READERS

_PACK = "mvad pack --dataset {name} --raw FOLDER"
_RENDER = "mvad render {name} --raw FOLDER"


def sets() -> str:
    """Return the page on published datasets."""
    rows: list[tuple[str, str, str, str, Any]] = [
        (realiad.NAME, "5", _PACK, realiad.LICENCE, realiad),
        *((each.name, str(each.views), _PACK, each.licence, _module(each)) for each in photograph_sets().values()),
        *(
            (reader.name, "scan", _RENDER, reader.licence, _module(reader))
            for reader in SCAN_READERS.values()
            if reader.name != READER
        ),
    ]
    lines = [
        "# Published datasets",
        "",
        "Generated from the readers by `tools/docs.py`. Downloads are expected in the layout of their publishers, unpacked. Without `--raw` they are",
        "searched for in `raw/DATASET` of the workspace, where `mvad pack` finds them even if no dataset is named. `mvad synth DATASET` generates",
        "a small dataset in the same layout. For your own photographs there is `mvad pack folder`.",
        "",
        "| dataset | views | command | licence, as far as known |",
        "|---|---|---|---|",
        *(f"| [`{name}`](#{name}) | {views} | `{command.format(name=name)}` | {licence} |" for name, views, command, licence, _ in rows),
        "",
        "`--category C` selects one category. `--dry-run` (of `mvad pack`) counts parts and reports what is wrong. The licence is written into the",
        "shards; the data keep the licence of their publishers.",
        "",
        "**Splits** are the published ones. If a dataset of photographs has no validation split, nothing is held out by default: the published protocols",
        "train on all training parts, and only then are figures comparable. Such a run has no threshold, and `mvad predict` asks for `--threshold`. `mvad train --holdout 0.2` keeps normals for a threshold in one run, `mvad pack",
        "--validation 0.2` holds out a fifth of the good training parts, the same parts on every machine, and records this. To replace existing shards that",
        "were packed differently, add `--overwrite`. `mvad reproduce` names the categories in which training parts were held out. A promise of at most 5 % false",
        "alarms takes 19 good validation parts.",
        "",
        "**Photographs** of all datasets except `realiad` may have any format and size, like your own photographs. Views that are not square are padded.",
        "`mvad predict` reads new parts whose files are named like those of the dataset. `mvad verify --raw` compares the photographs with what was packed.",
    ]  # fmt: skip
    for name, _, _, _, module in rows:
        lines += ["", f"## {name}", "", _told(module)]
    return "\n".join(lines) + "\n"


def _module(reader: object) -> Any:
    return sys.modules[type(reader).__module__]


def _told(module: Any) -> str:
    """Return a module's docstring without the words with which the docstring of every reader begins."""
    text = (inspect.getdoc(module) or "").replace("``", "`").removeprefix("Reader of ")
    return text[:1].upper() + text[1:]
