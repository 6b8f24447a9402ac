"""``python -m mvad.datasets.shards.sandbox FILE``: parse a shard under resource limits and print its layout as JSON.

Run by ``layout_of`` for unverified files. The limits are set before the HDF5 library is loaded.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 200 << 20
"""Limit of the data segment (the heap), without the libraries' code."""
CPU_SECONDS = 10


def limit() -> None:
    """Limit this process: memory, processor time, no core file, no byte written to any file."""
    for kind, limit_value in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (limit_value, limit_value))


def main(path: Path) -> None:
    """Print ``{"layout": ...}`` or ``{"refused": message}``."""
    from mvad.datasets.shards.layout import parse
    from mvad.errors import BadInput

    answer: dict[str, Any]
    try:
        answer = {"layout": parse(path).to_json()}
    except BadInput as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    limit()
    main(Path(sys.argv[1]))
