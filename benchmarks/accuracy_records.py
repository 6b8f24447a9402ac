"""What ``accuracy.py`` keeps of an evaluated run in ``results/accuracy_runs``, so that tables can be made without the run's folder.

A record has scores, labels and figures; curves, pictures and maps stay in the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvad import files
from mvad.model.evaluation.missing_views import SubsetFigures
from mvad.model.evaluation.results import RESULTS, Results

RECORDS = Path(__file__).parent / "results" / "accuracy_runs"
TEXTURES = "pseudo.textures"
"""Key whose value is a folder of the machine: only its name is kept."""
MISSING, EFFECTS = "missing.json", "effects.json"


@dataclass(frozen=True)
class Evaluated:
    """The results of one run, and what ``evaluate_network`` wrote beside them: None where it wrote nothing."""

    results: Results
    missing: list[SubsetFigures] | None
    effects: dict[str, float] | None

    @classmethod
    def of_run(cls, folder: Path) -> Evaluated:
        """Read an evaluated run's folder."""
        missing, effects = (files.read_json(path) if (path := folder / name).exists() else None for name in (MISSING, EFFECTS))
        return cls(Results.read(folder / RESULTS), _subsets(missing), effects)

    @classmethod
    def of_record(cls, path: Path) -> Evaluated:
        """Read a record."""
        value = files.read_json(path)
        return cls(Results.from_json(value["results"]), _subsets(value.get("missing")), value.get("effects"))

    def keep(self, path: Path) -> None:
        """Write a record."""
        samples = [
            replace(one, picture="", picture_sha256="", map="", map_sha256="", map_range=()) for one in self.results.samples
        ]
        textures = {TEXTURES: Path(str(self.results.config[TEXTURES])).name} if TEXTURES in self.results.config else {}
        kept = replace(self.results, curves={}, samples=samples, config={**self.results.config, **textures})
        value: dict[str, Any] = {"results": kept.to_json()}
        if self.missing is not None:
            value["missing"] = [row.to_json() for row in self.missing]
        if self.effects is not None:
            value["effects"] = self.effects
        files.write_json(path, value)


def _subsets(rows: Sequence[Mapping[str, Any]] | None) -> list[SubsetFigures] | None:
    return None if rows is None else [SubsetFigures.from_json(row) for row in rows]


def with_earlier(
    new: Sequence[dict[str, Any]],
    earlier: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    runs: Callable[[Mapping[str, Any]], int] = lambda row: len(row["seeds"]),
) -> list[dict[str, Any]]:
    """Return new rows, and of earlier ones those that are not among them or are of more runs; these say ``"earlier": true``.

    Parameters
    ----------
    new, earlier
        Rows of a table.
    names
        Columns that name a row.
    runs
        Number of runs that a row is made of.
    """
    by_name = {tuple(row[name] for name in names): row for row in new}
    for row in earlier:
        key = tuple(row[name] for name in names)
        if key not in by_name or runs(row) > runs(by_name[key]):
            by_name[key] = {**row, "earlier": True}
    return list(by_name.values())
