"""Contents of the files of a photographed part, and their hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mvad import files
from mvad.datasets.scan import SampleRef
from mvad.errors import BadInput

_GIVE = "give the file, or remove what names it"


def hash_of_files(contents: Mapping[Path, bytes]) -> str:
    """Return one hash over the contents of a part's files."""
    return files.sha256_bytes("".join(files.sha256_bytes(content) for content in contents.values()).encode())


def contents_of(ref: SampleRef, remedy: str = _GIVE) -> dict[Path, bytes]:
    """Read the files of a part.

    Raises
    ------
    BadInput
        If one cannot be read; the message ends with ``remedy``.
    """
    found = {}
    for path in ref.paths:
        try:
            found[path] = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    return found


def sample_hash(ref: SampleRef, contents: Mapping[Path, bytes] | None = None, remedy: str = _GIVE) -> str:
    """Return the hash of a part's files without decoding them; see ``contents_of``. ``contents``: what was read before."""
    return hash_of_files(contents_of(ref, remedy) if contents is None else contents)
