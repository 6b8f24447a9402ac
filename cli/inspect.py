"""``mvad inspect``: what a shard holds, and a contact sheet of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect", epilog="Example: mvad inspect mvad-data/shards/mvtec3d/cable_gland/test-00000.h5 --sheet sheet.png")(
        inspect
    )


def inspect(
    shard: Annotated[Path, typer.Argument(help="A shard (.h5).")],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet of some samples here (PNG).")] = None,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Samples on the sheet, evenly spread.")] = 8,
) -> None:
    """Print a shard's fields and attributes, and draw a contact sheet: views, then geometry, masks in red."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.datasets.shards.contact_sheet import contact_sheet, describe

    with Bars() as bars:
        for line in describe(shard):
            bars.say(line)
        if sheet:
            files.write_bytes(sheet, contact_sheet(shard, samples))
            bars.say(f"contact sheet: {sheet}")
