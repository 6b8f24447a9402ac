"""``python -m mvad.datasets.shards.quarantine FILE``: parse a shard under limits and print what was found as JSON.

Run by ``layout_of`` for files that nothing vouches for. The limits are set before the HDF5 library is loaded.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 200 << 20
"""Of data: the heap, not the libraries' code."""
CPU_SECONDS = 10


def limit() -> None:
    """Bound this process: memory, processor time, no core file, no byte written to any file."""
    for kind, most in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (most, most))


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
