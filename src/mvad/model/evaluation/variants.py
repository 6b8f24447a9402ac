"""Names for runs that would look alike in tables and charts: what tells a run from the other listed runs of its method."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mvad.model.config import CHECKPOINT_KEYS, EARLIER
from mvad.model.evaluation.results import Results

_SHOWN_ANYWAY = ("model", "seed", "input.modalities", "input.size")
_MOST_KEYS = 3
"""Number of differing keys up to which they are named; the run's name says more than a longer list."""
_ABSENT = "unset"


def named_apart(results: Sequence[Results]) -> list[Results]:
    """Return the results with their ``variant``: the keys in which runs of one method, teacher and input differ, else nothing.

    Runs of one category whose shards differ, since it was rendered or packed again, have the numbers of their samples, too, or their names.

    Runs that differ in more than three keys have the name of the first of them without its seed, and runs that differ in no key
    although they are of the same data and seed have their own names.
    """
    alike: dict[Any, list[Results]] = {}
    for result in results:
        alike.setdefault(_looks(result), []).append(result)
    variants = {looks: _by_choices(group) for looks, group in alike.items()}
    named = [replace(result, variant=variants[_looks(result)][choices_of(result)]) for result in results]
    named = _by_data(named)
    same: dict[Any, int] = {}
    for result in named:
        same[_identity(result)] = same.get(_identity(result), 0) + 1
    return [
        replace(result, variant=", ".join(filter(None, (result.variant, result.run)))) if same[_identity(result)] > 1 else result
        for result in named
    ]


def choices_of(result: Results) -> str:
    """Return the keys by which a run differs from others, as text: all but the seed and those without influence on the result."""
    unchosen = {"seed", *CHECKPOINT_KEYS}
    return json.dumps({key: value for key, value in _whole(result).items() if key not in unchosen}, sort_keys=True)


def _by_choices(group: Sequence[Results]) -> dict[str, str]:
    """Return the variant of each configuration of runs that look alike."""
    configs = [_whole(result) for result in group]
    keys = sorted({key for config in configs for key in config} - {*_SHOWN_ANYWAY, *CHECKPOINT_KEYS})
    differing = [key for key in keys if len({json.dumps(config.get(key, _ABSENT)) for config in configs}) > 1]
    found: dict[str, str] = {}
    for result, config in zip(group, configs, strict=True):
        if len(differing) > _MOST_KEYS:
            found.setdefault(choices_of(result), re.sub(r"-seed\d+$", "", result.run))
        else:
            found[choices_of(result)] = ", ".join(f"{key}={_shown(config, key)}" for key in differing)
    return found


def _by_data(results: Sequence[Results]) -> list[Results]:
    """Return results with variants that tell runs on other shards of the same category apart."""
    data: dict[Any, dict[str, tuple[str, str]]] = {}
    for result in results:
        names = _sizes(result), re.sub(r"-seed\d+$", "", result.run)
        data.setdefault(_described(result), {}).setdefault(_shards(result), names)
    found = []
    for result in results:
        sets = data[_described(result)]
        if len(sets) > 1:
            own = sets[_shards(result)]
            apart = (
                name for name, all_names in zip(own, zip(*sets.values(), strict=True), strict=True) if all_names.count(name) == 1
            )
            told = next(apart, result.run)
            result = replace(result, variant=", ".join(filter(None, (result.variant, told))))
        found.append(result)
    return found


def _described(result: Results) -> Any:
    return result.dataset, result.category, _looks(result), result.variant


def _shards(result: Results) -> str:
    """Return the shards that a run was trained and evaluated on, as text."""
    return json.dumps([sorted(result.train_shards.values()), sorted(result.test_shards.values())])


def _sizes(result: Results) -> str:
    trained = "" if result.training_samples is None else f"{result.training_samples} train, "
    return f"{trained}{len(result.samples)} test"


def _whole(result: Results) -> dict[str, Any]:
    """Return a run's configuration with what runs of its method did before they recorded it."""
    parts = {key.partition(".")[0] for key in result.config}
    return {key: value for key, value in EARLIER.items() if key.partition(".")[0] in parts} | dict(result.config)


def _shown(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key, _ABSENT)
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _looks(result: Results) -> Any:
    return result.model, result.teacher, result.input_name, result.views


def _identity(result: Results) -> Any:
    return result.dataset, result.category, _looks(result), result.variant, result.seed
