"""Resolution of configurations from layers (preset < file < option), with the origin of each key's value.

A configuration is a frozen dataclass, whose fields may be frozen dataclasses; its keys are dotted names
(``bottleneck.channels``). Unknown keys and values of a wrong type raise ``BadInput``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mvad.errors import BadInput
from mvad.words import no_such

Config = TypeVar("Config")

RENAMED: dict[str, str] = {
    "patchcore.least": "patchcore.min_patches",
    "score.pool": "score.pool_px",
    "score.top": "score.top_k",
    "stn.collapse": "stn.depth_reduction",
}
"""Current names of keys by their name in version 0.1, which is accepted with a warning until the next version."""


class RenamedKey(FutureWarning):
    """A key was given by a name that it no longer has."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted keys and values of a configuration dataclass."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def resolve(
    kind: type[Config], layers: Iterable[tuple[str, Mapping[str, Any]]], others: Collection[str] = ()
) -> tuple[Config, dict[str, str]]:
    """Build a configuration from layers of dotted keys; later layers take precedence.

    Parameters
    ----------
    kind
        The frozen dataclass; its defaults are the lowest layer.
    layers
        Pairs (origin, {dotted key: value}) from lowest to highest precedence, such as ``("preset small", {...})``.
    others
        Keys of other configurations (those of other methods), which are ignored.

    Returns
    -------
    tuple
        The configuration, and the origin of the value of each dotted key.

    Raises
    ------
    BadInput
        If a key is unknown (the message names the most similar one) or a value has the wrong type.
    """
    values = {key: ("default", value) for key, value in flatten(kind()).items()}
    for origin, layer in layers:
        for written, value in layer.items():
            name = _current_name(origin, written)
            if name in values:
                values[name] = (origin, value)
            elif name not in others:
                known = {*values, *others}
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))
                raise BadInput(f"{origin}: unknown key {name!r}; {hint}")
    config = _build(kind, values, "")
    return config, {key: origin for key, (origin, _) in values.items()}


def unused(layers: Iterable[tuple[str, Mapping[str, Any]]], known: Collection[str]) -> list[str]:
    """Return the keys of layers that a configuration with these keys has not, each with its layer, such as ``--set head.width``."""
    return [f"{origin} {name}" for origin, layer in layers for name in layer if RENAMED.get(name, name) not in known]


def _current_name(origin: str, name: str) -> str:
    """Return the current name of a key; warn about an old name unless it was read from a record."""
    if name not in RENAMED:
        return name
    if origin != RECORDED:
        warnings.warn(
            f"{origin}: {name} was renamed to {RENAMED[name]}; the old name will be removed in the next version",
            RenamedKey,
            stacklevel=3,
        )
    return RENAMED[name]


RECORDED = "recorded"
"""Origin of keys that were read from a record of mvad, in which old names are accepted without a warning."""


def key(
    default: Any, why: str, *, paper: str = "", alternatives: str = "", least: float | None = None, most: float | None = None,
    odd: bool = False, length: int | None = None,
) -> Any:  # fmt: skip
    """Declare a key of a configuration: a dataclass field with its documentation as metadata.

    Parameters
    ----------
    default
        Default value, immutable.
    why
        Meaning of the key, or the reason for the default: a noun phrase or sentences that can be understood on their own.
    paper
        What the method's paper says about the key, or that the paper is silent.
    alternatives
        Other values and what is known about them; empty if the allowed values say enough.
    least, most
        Smallest and largest allowed value; for a list, of each entry.
    odd
        Whether the value must be odd.
    length
        Number of entries, if the value is a list.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Pooling:
    ...     side: int = key(3, "Side of the neighbourhood, in cells.", paper="3", alternatives="5")
    >>> Pooling().side
    3
    >>> describe(Pooling)["side"].alternatives
    '5'
    """
    limits = {"least": least, "most": most, "odd": odd, "length": length}
    return dataclasses.field(default=default, metadata={"why": why, "paper": paper, "alternatives": alternatives, **limits})


@dataclass(frozen=True)
class KeyInfo:
    """Documentation of a key.

    Attributes
    ----------
    name
        The dotted key.
    default
        Default.
    why, paper, alternatives
        See ``key``.
    allowed
        Allowed values, or what they must be; empty where only the type is checked.
    """

    name: str
    default: Any
    why: str
    paper: str
    alternatives: str
    allowed: tuple[str, ...]


def describe(kind: Any, prefix: str = "") -> dict[str, KeyInfo]:
    """Return the documentation of all keys of a configuration dataclass, by dotted key, in the order of declaration."""
    infos: dict[str, KeyInfo] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            infos |= describe(hint, f"{name}.")
            continue
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        why, paper, alternatives = (str(field.metadata.get(part, "")) for part in ("why", "paper", "alternatives"))
        infos[name] = KeyInfo(name, default, why, paper, alternatives, _allowed(hint) or _limits(field.metadata))
    return infos


def _limits(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the values of a key must be, in words."""
    least, most, length = (metadata.get(name) for name in ("least", "most", "length"))
    texts = {
        "least": f"at least {least}", "most": f"at most {most}", "odd": "odd", "length": f"a list of {length}",
    }  # fmt: skip
    return tuple(text for name, text in texts.items() if metadata.get(name) is not None and metadata[name] is not False)


def _check_limits(name: str, origin: str, value: Any, metadata: Mapping[str, Any]) -> None:
    least, most, length = (metadata.get(limit) for limit in ("least", "most", "length"))
    entries = value if isinstance(value, tuple) else (value,)
    wrong = length is not None and len(entries) != length
    for entry in entries if least is not None or most is not None or metadata.get("odd") else ():
        wrong |= (least is not None and entry < least) or (most is not None and entry > most)
        wrong |= bool(metadata.get("odd")) and entry % 2 == 0
    if wrong:
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        raise BadInput(f"{origin}: {name} = {shown} must be {' and '.join(_limits(metadata))}")


def _allowed(hint: Any) -> tuple[str, ...]:
    if hint is bool:
        return ("true", "false")
    return tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is typing.Literal else ()


def check_multiple(config: Any, of: str, part: str) -> None:
    """Check that the value of one dotted key of a configuration is a multiple of that of another.

    Raises
    ------
    BadInput
        If it is not.

    Examples
    --------
    >>> from mvad.model.config import ModelConfig
    >>> check_multiple(ModelConfig(), "input.size", "train.batch")
    """
    values = flatten(config)
    if values[of] % values[part]:
        raise BadInput(f"{of} = {values[of]} must be a multiple of {part} = {values[part]}; change one of them (--set {of}=...)")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as dotted keys.

    Raises
    ------
    BadInput
        If the file is missing or not valid TOML.
    """
    try:
        return dict(_dotted(tomllib.loads(path.read_text(encoding="utf-8")), ""))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; give --config a TOML file") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``key=value`` texts by key; values are TOML (``3``, ``0.1``, ``true``), a bare word is text.

    Raises
    ------
    BadInput
        If a text has no ``=``.
    """
    pairs: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise BadInput(f"--set {assignment}: expected key=value")
        try:
            pairs[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            pairs[key.strip()] = text.strip()
    return pairs


def _dotted(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _build(kind: Any, values: Mapping[str, tuple[str, Any]], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            arguments[field.name] = _build(hint, values, name + ".")
        else:
            arguments[field.name] = _checked(name, hint, *values[name])
            _check_limits(name, values[name][0], arguments[field.name], field.metadata)
    return kind(**arguments)


_TYPED = ("option", "--set")
"""Origins of what a user types into a command line: a wrong choice there is a usage error."""


def _checked(key: str, hint: Any, origin: str, value: Any) -> Any:
    origin_type = typing.get_origin(hint)
    if origin_type is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            if origin in _TYPED:
                raise no_such(f"{origin}: {key} =", str(value), map(str, choices))
            raise BadInput(f"{origin}: {key} = {value!r}; choose from {', '.join(map(str, choices))}")
        return value
    if origin_type is tuple:
        if isinstance(value, str):
            value = value.split(",")
        item = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"{origin}: {key} = {value!r} must be a list")
        return tuple(_checked(key, item, origin, entry) for entry in value)
    if origin_type in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _checked(key, next(a for a in typing.get_args(hint) if a is not type(None)), origin, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{origin}: {key} = {value} must be finite")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadInput(f"{origin}: {key} = {value!r} must be {hint.__name__}")
    return value
