"""Documentation of the keys of all commands that have keys: training, rendering, packing."""

from __future__ import annotations

from typing import Any

from mvad.errors import BadInput
from mvad.model.explain import FIXED, Explanation, explain
from mvad.model.registry import all_keys
from mvad.render.options import RenderOptions
from mvad.settings import KeyInfo, describe
from mvad.words import nearest

TRAIN, RENDER, PACK = "train", "render", "pack"


def all_explanations() -> dict[str, list[Explanation]]:
    """Return the documentation of all keys by the command that they are keys of."""
    found = {TRAIN: [explain(name) for name in (*all_keys(), *FIXED)]}
    return found | {verb: [_plain(info) for info in describe(kind).values()] for verb, kind in _others().items()}


def explanations_of(name: str) -> list[tuple[str, Explanation]]:
    """Return (command, documentation) for each command that has a key of this name.

    Raises
    ------
    BadInput
        If none has; the message lists similar keys.

    Examples
    --------
    >>> [verb for verb, _ in explanations_of("clean.plane_margin_mm")]
    ['render']
    """
    found = [(TRAIN, explain(name))] if name in all_keys() or name in FIXED else []
    if "." in name and found:
        return found  # without the import of the libraries that packing needs, whose keys have no dot
    others = {verb: describe(kind) for verb, kind in _others().items()}
    found += [(verb, _plain(keys[name])) for verb, keys in others.items() if name in keys]
    if not found:
        near = nearest(name, [*all_keys(), *FIXED, *(key for keys in others.values() for key in keys)])
        raise BadInput(f"no key {name!r}; " + (f"did you mean {', '.join(near)}?" if near else "mvad explain lists them all"))
    return found


def _others() -> dict[str, Any]:
    """Return the options of the other commands by verb; they are imported here, since those of packing need numpy."""
    from mvad.datasets.shards.pack import PackOptions

    return {RENDER: RenderOptions, PACK: PackOptions}


def _plain(info: KeyInfo) -> Explanation:
    return Explanation(info.name, info.default, info.why, info.paper, info.alternatives, info.allowed, {})
