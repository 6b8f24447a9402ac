"""Documentation of a key: default, reason, statement of the paper, alternatives, presets and methods. Does not import torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from mvad.errors import BadInput
from mvad.model.config import PRESETS, SILENT
from mvad.model.registry import all_keys, methods
from mvad.settings import KeyInfo

FIXED = {
    info.name: info
    for info in (
        KeyInfo(
            "label.missing", "fixed", "", '"same missing cases for fairness" does not decide it',
            "when views are left out, results are reported under both rules: the sample's full label, and the label of the remaining views", (),
        ),
        KeyInfo(
            "eval.pixels", "fixed", "", SILENT, "all present views at 256 x 256, masks by nearest neighbour", (),
        ),
        KeyInfo(
            "head.input", "fixed", "", "silent; DeSTSeg -t * s of three levels at stride 4, from the corrupted image",
            "not a key: nothing else is implemented", (),
        ),
    )
}  # fmt: skip
"""Choices that are fixed in the code, in the form of keys."""


@dataclass(frozen=True)
class Explanation(KeyInfo):
    """Documentation of a key; ``set_by`` maps the presets and methods that change it to their values."""

    set_by: dict[str, Any]


def explain(name: str) -> Explanation:
    """Return the documentation of a key.

    Raises
    ------
    BadInput
        If there is no such key; the message lists similar ones.

    Examples
    --------
    >>> explain("dropout.p").paper
    '0.2 per view'
    """
    known = all_keys()
    if name in FIXED:
        return _explanation(FIXED[name], {})
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *FIXED], 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "mvad explain lists them all"
        raise BadInput(f"no key {name!r}; {hint}")
    set_by: dict[str, Any] = {}
    for preset in PRESETS:
        by_value: dict[str, tuple[Any, list[str]]] = {}
        for method in methods().values():
            value = method.preset(preset).get(name)
            if name in method.preset(preset):
                by_value.setdefault(repr(value), (value, []))[1].append(method.name)
        for value, users in by_value.values():
            set_by[f"preset {preset}" + (f" ({', '.join(users)})" if len(by_value) > 1 else "")] = value
    set_by |= {f"--model {method.name}": method.keys[name] for method in methods().values() if name in method.keys}
    info = known[name]
    if name == "model":
        info = replace(info, allowed=tuple(methods()))
    return _explanation(info, set_by)


def _explanation(info: KeyInfo, set_by: dict[str, Any]) -> Explanation:
    return Explanation(info.name, info.default, info.why, info.paper, info.alternatives, info.allowed, set_by)
