"""Resolved configuration: preset < file < option, with the origin of every key.

A configuration is a frozen dataclass, possibly of frozen dataclasses; its keys are dotted names
(``bottleneck.channels``). Unknown keys and values of a wrong type are refused.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mvad.errors import BadInput

Config = TypeVar("Config")


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


def resolve(kind: type[Config], layers: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Config, dict[str, str]]:
    """Build a configuration from layers of dotted keys; later layers win.

    Parameters
    ----------
    kind
        The frozen dataclass; its own defaults are the lowest layer.
    layers
        (origin, {dotted key: value}) from weakest to strongest, e.g. ``("preset small", {...})``.

    Returns
    -------
    tuple
        The configuration, and for every dotted key where its value came from.

    Raises
    ------
    BadInput
        If a key is unknown (the nearest real one is named) or a value has the wrong type.
    """
    values = {key: ("default", value) for key, value in flatten(kind()).items()}
    for origin, layer in layers:
        for key, value in layer.items():
            if key not in values:
                near = difflib.get_close_matches(key, values, 1)
                hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(values))
                raise BadInput(f"{origin}: unknown key {key!r}; {hint}")
            values[key] = (origin, value)
    config = _build(kind, values, "")
    return config, {key: origin for key, (origin, _) in values.items()}


def reasons(module: ModuleType, root: type) -> dict[str, str]:
    """Return the text below each field of a module's configuration classes, by dotted key.

    Parameters
    ----------
    module
        Where the classes are written.
    root
        The outermost of them.
    """
    tree = ast.parse(inspect.getsource(module))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[str, str] = {}

    def walk(name: str, prefix: str) -> None:
        body = classes[name].body
        for place, node in enumerate(body):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            kind = node.annotation.id if isinstance(node.annotation, ast.Name) else ""
            if kind in classes:
                walk(kind, f"{prefix}{node.target.id}.")
                continue
            after = body[place + 1] if place + 1 < len(body) else None
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[prefix + node.target.id] = " ".join(str(after.value.value).split())

    walk(root.__name__, "")
    return found


def allowed_values(kind: Any, key: str) -> tuple[str, ...]:
    """Return the values that a dotted key may have, or nothing where its type alone decides."""
    *parts, last = key.split(".")
    for part in parts:
        kind = typing.get_type_hints(kind)[part]
    hint = typing.get_type_hints(kind)[last]
    if hint is bool:
        return ("true", "false")
    return tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is typing.Literal else ()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as dotted keys.

    Raises
    ------
    BadInput
        If the file is missing or is no TOML.
    """
    try:
        return dict(_dotted(tomllib.loads(path.read_text(encoding="utf-8")), ""))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; give --config a TOML file") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; values are TOML (``3``, ``0.1``, ``true``), a bare word is text."""
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
    return kind(**arguments)


def _checked(key: str, hint: Any, origin: str, value: Any) -> Any:
    origin_type = typing.get_origin(hint)
    if origin_type is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
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
