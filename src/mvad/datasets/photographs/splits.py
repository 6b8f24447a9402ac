"""Divide good parts into training, validation and test, by groups that are kept together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from mvad.datasets.photographs.layouts import Listing
from mvad.datasets.scan import GOOD, SampleRef
from mvad.words import counted

FOR_FIVE_PERCENT = 19
"""Least number of good validation parts from which a threshold can promise at most 5 % false alarms, 1 / (19 + 1)."""


def divide(listing: Listing, validation: float, test: float) -> Listing:
    """Give a split to parts that have none, and take validation parts from the training parts where there are none.

    Groups are ordered by a hash of their names, so that the same parts give the same splits on every machine, and taken whole
    until the share is reached. Where no splits are given, all defective parts are tested on, and with them the good ones of their
    groups. Parts of a group that is in several splits are left out, with a problem.

    Parameters
    ----------
    listing
        The parts; those without a split have the split "".
    validation
        Share of the good parts that are not in the test split to hold out for validation.
    test
        Share of the good parts without a split to test on.
    """
    samples, notes = list(listing.samples), list(listing.notes)
    free = [sample for sample in samples if not sample.split]
    if free:
        good = [sample for sample in free if sample.defect == GOOD]
        has_defects = any(sample.defect != GOOD for sample in samples)
        beside = {group_of(sample) for sample in free if sample.defect != GOOD and sample.group}
        alone = [sample for sample in good if group_of(sample) not in beside]
        tested = beside | (set(_taken(alone, test)) if has_defects else set())
        samples = [
            sample
            if sample.split
            else replace(sample, split="test" if sample.defect != GOOD or group_of(sample) in tested else "train")
            for sample in samples
        ]
        if has_defects:
            count = sum(1 for sample in good if group_of(sample) in tested)
            notes.append(
                f"no splits are given: {counted(count, 'good part')} of {len(good)} are tested on, with all defective ones"
            )
    if validation and not any(sample.split == "validation" for sample in samples):
        elsewhere = {group_of(sample) for sample in samples if sample.group and sample.split != "train"}
        training = [sample for sample in samples if sample.split == "train" and group_of(sample) not in elsewhere]
        held = set(_taken(training, validation))
        samples = [
            replace(sample, split="validation") if sample.split == "train" and group_of(sample) in held else sample
            for sample in samples
        ]
        count = sum(1 for sample in samples if sample.split == "validation")
        if count:
            notes.append(f"{counted(count, 'good part')} of {len(training)} are held out for validation")
    normals = sum(1 for sample in samples if sample.split == "validation")
    if 0 < normals < FOR_FIVE_PERCENT:
        notes.append(
            f"{counted(normals, 'good validation part')} can promise at most {100 / (normals + 1):.2g} % false alarms; 5 % needs {FOR_FIVE_PERCENT}"
        )
    divided = _divided_groups(samples)
    kept = sorted(sample for sample in samples if sample.group not in divided)
    return Listing(kept, [*listing.problems, *divided.values()], notes)


def group_of(sample: SampleRef) -> str:
    """Return the name of a part's group: its own where none is given."""
    return f"group {sample.group}" if sample.group else f"part {sample.id}"


def _taken(samples: Sequence[SampleRef], share: float) -> list[str]:
    """Return groups, in the order of their hashes, that together hold at least the share of the parts; never all groups."""
    sizes: dict[str, int] = {}
    for sample in samples:
        sizes[group_of(sample)] = sizes.get(group_of(sample), 0) + 1
    ordered = sorted(sizes, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    wanted, taken, count = share * len(samples), list[str](), 0
    for name in ordered[:-1]:
        if count + 1e-9 >= wanted:
            break
        taken.append(name)
        count += sizes[name]
    return taken


def _divided_groups(samples: Sequence[SampleRef]) -> dict[str, str]:
    """Return one problem for each group whose parts are in several splits, by its name."""
    splits: dict[str, set[str]] = {}
    for sample in samples:
        if sample.group:
            splits.setdefault(sample.group, set()).add(sample.split)
    return {
        group: f"the group {group} is in {' and '.join(sorted(found))}; give all its parts one split"
        for group, found in sorted(splits.items())
        if len(found) > 1
    }
