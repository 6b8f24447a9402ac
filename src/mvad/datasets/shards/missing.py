"""Samples that a packed category lacks: those of an unfinished render, and photographs that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mvad.datasets.renders.record import missing_of
from mvad.datasets.shards.sources import CategorySource
from mvad.errors import BadInput


def check_complete(category: CategorySource, partial: bool) -> None:
    """Raise BadInput if a render has scans that a repeated render may still give, unless a part is wanted."""
    absent = [entry for entry in category.missing if entry["why"] != "raw"]
    if absent and not partial:
        total = len(category.sources) + len(category.missing)
        first = absent[0]
        raise BadInput(
            f"{category.dataset}/{category.category}: {len(absent)} of {total} scans are not rendered (first {first['key']}: "
            f"{first['reason']}); run the same mvad render again, or give --partial to pack the others"
        )


def merged_notes(category: CategorySource, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the notes on a category, of its source and of its shards' ``notes`` (note to keys), as a manifest lists them."""
    found = {note["note"]: dict(note) for note in category.notes}
    for entry in entries:
        for text, keys in entry.get("notes", {}).items():
            note = found.setdefault(text, {"note": text, "samples": 0, "first": keys[0]})
            note["samples"] += len(keys)
            note["first"] = min(note["first"], keys[0])
    return [found[text] for text in sorted(found)]


def all_missing(category: CategorySource, failed: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what a category lacks, sorted by key; ``failed`` has the reasons of samples that could not be read."""
    unread = [{"key": key, "reason": reason, "why": "raw"} for key, reason in failed.items()]
    return sorted([*category.missing, *unread], key=lambda entry: entry["key"])


def members(notes: list[dict[str, Any]], missing: list[dict[str, str]]) -> dict[str, Any]:
    """Return the members of a manifest on notes and missing samples; none where there are none."""
    return ({"notes": notes} if notes else {}) | ({"missing": missing} if missing else {})


def missing_lines(manifest: Mapping[str, Any], most: int = 20) -> list[str]:
    """Return one line for each sample that a manifest says is missing, at most so many and one more."""
    missing = missing_of(manifest)
    lines = [f"{entry['key']}: {entry['reason']}" for entry in missing[:most]]
    return lines + ([f"and {len(missing) - most} more, which the manifest lists"] if len(missing) > most else [])
