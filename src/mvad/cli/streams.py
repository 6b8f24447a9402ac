"""Standard output and error of the program, which go on silently where nobody reads them any more."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer


class _Pipe(io.FileIO):
    """A file descriptor that is turned to the null device when the reader of its pipe has gone."""

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]  # the stub says int
        """Write, or discard what nobody will read."""
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(memoryview(data).cast("B"))


def outlive_readers() -> None:
    """Let ``mvad ... | head`` end as the command itself ends: what it prints is discarded, what it writes is finished."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            buffer = io.BufferedWriter(cast(io.RawIOBase, _Pipe(stream.fileno(), "w", closefd=False)))
            made = io.TextIOWrapper(
                buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=name == "stderr"
            )
            setattr(sys, name, cast("TextIO", made))
