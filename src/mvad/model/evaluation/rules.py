"""Rules from the scores of views to the score of a sample in results: their names, and the figure under each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def rule_in_words(config: Mapping[str, Any], standardised: bool) -> str:
    """Return how the scores of samples were made, such as ``top2 of standardised scores, modalities added``.

    Parameters
    ----------
    config
        Values of the run by dotted key; keys that a run of before does not have mean what was done then.
    standardised
        Whether the scores of views and modalities were brought to one scale.
    """
    name, several = config.get("score.sample", "max"), len(config.get("input.modalities", ())) > 1
    added = ", modalities added" if several and config.get("score.modalities", "max") == "add" else ""
    return f"{name} of {'standardised' if standardised else 'raw'} scores{added}"


@dataclass(frozen=True)
class RuleFigure:
    """S-AUROC under one rule, with its 95 % bounds; None where a class is missing."""

    s_auroc: float | None
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"s_auroc": self.s_auroc, "interval": None if self.interval is None else list(self.interval)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RuleFigure:
        """Restore a figure from what ``to_json`` returned."""
        return cls(value["s_auroc"], None if value["interval"] is None else (value["interval"][0], value["interval"][1]))
