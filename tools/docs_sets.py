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
        "Generated from the readers by `tools/docs.py`. Downloads are expected as their publishers pack them, unpacked. Without `--raw` they are",
        "looked for in `raw/DATASET` of the workspace, where `mvad pack` finds them without being told their names. `mvad synth DATASET` generates",
        "a small one of the same form. Own photographs: `mvad pack folder`.",
        "",
        "| dataset | views | command | licence, as known |",
        "|---|---|---|---|",
        *(f"| [`{name}`](#{name}) | {views} | `{command.format(name=name)}` | {licence} |" for name, views, command, licence, _ in rows),
        "",
        "`--category C` takes one category, `--dry-run` (of `mvad pack`) counts parts and names what is wrong. The licence is written into the",
        "shards; data keep their publishers' licence.",
        "",
        "**Splits** are the published ones. Where a dataset of photographs has no validation split, nothing is held out: the published protocols train",
        "on all training parts, and figures are comparable only so. A run then has no threshold, and `mvad predict` asks for `--threshold`. `mvad pack",
        "--validation 0.2` holds out a fifth of the good training parts, the same ones on every machine, and records that; other shards than those that",
        "are there ask for `--overwrite`, and `mvad reproduce` names categories that hold some out. 19 good validation parts can promise 5 % false alarms.",
        "",
        "**Photographs** of datasets but `realiad` may be of any kind and size, as own ones; views that are not square are padded, and `mvad predict` reads",
        "new parts named like the dataset's. `mvad verify --raw` compares them with what was packed.",
    ]  # fmt: skip
    for name, _, _, _, module in rows:
        lines += ["", f"## {name}", "", _told(module)]
    return "\n".join(lines) + "\n"


def _module(reader: object) -> Any:
    return sys.modules[type(reader).__module__]


def _told(module: Any) -> str:
    """Return a module's docstring without the words that every reader's begins with."""
    text = (inspect.getdoc(module) or "").replace("``", "`").removeprefix("Reader of ")
    return text[:1].upper() + text[1:]
