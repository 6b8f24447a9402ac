"""Text formats of mvad's records: JSON with a seal, and lines of logs with a CRC-32. No input or output; see ``mvad.files``.

The seal of a JSON object is a member ``seal`` with the SHA-256 of the object's text, in which the seal's 64 digits are zeros.
A line of a log has a member ``crc32``, of the line's JSON without it, keys sorted.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
_NO_SEAL = "0" * 64


def encode_json(value: Any) -> str:
    """Return JSON text with sorted keys, so that equal values give equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def decode_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        If it is not UTF-8, not JSON, or an object has a member twice.
    RecursionError
        If it is nested too deeply.
    """
    return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_members)


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return the JSON text of an object with its seal."""
    text = encode_json(dict(value) | {SEAL: _NO_SEAL}).encode()
    return text.replace(_seal_line(_NO_SEAL), _seal_line(hashlib.sha256(text).hexdigest()), 1)


def matches_seal(content: bytes, seal: str) -> bool:
    """Return whether the text of a sealed object, which has this seal, is the text that was written."""
    without_seal = content.replace(_seal_line(seal), _seal_line(_NO_SEAL), 1) if seal.isascii() else content
    return without_seal != content and hashlib.sha256(without_seal).hexdigest() == seal


def encode_line(value: Mapping[str, Any]) -> str:
    """Return a line of a log: JSON with a CRC-32."""
    text = json.dumps(value, sort_keys=True)
    plain: dict[str, Any] = json.loads(text)
    return json.dumps(plain | {"crc32": f"{zlib.crc32(text.encode()):08x}"}, sort_keys=True) + "\n"


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return the value of a line of a log, which comes without its line end, or None if the line is damaged."""
    try:
        value: dict[str, Any] = json.loads(line)
        del value["crc32"]
        intact = encode_line(value).encode() == line + b"\n"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if intact else None


def _seal_line(seal: str) -> bytes:
    """Return the line of a text that holds the seal; no other line begins like it, because nested ones are indented further."""
    return f'\n "{SEAL}": "{seal}"'.encode()


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON members; a name that occurs twice is an error, because one value would be lost."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} occurs twice")
    return value
