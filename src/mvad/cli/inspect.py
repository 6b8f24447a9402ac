"""``mvad inspect``: print the content of a shard, and draw a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import JsonOut


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog="Example: mvad inspect mvad-data/shards/mvtec3d/cable_gland/test-00000.h5 --sheet sheet.png")(
        inspect
    )


def inspect(
    shard: Annotated[Path, typer.Argument(help="A shard (.h5).")],
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="PNG file of the contact sheet. Default: CATEGORY-FILE.png in the current folder."),
    ] = None,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="The file is from another source: parse it in a separate process.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Number of samples on the sheet, evenly spread.")] = 8,
    json_out: JsonOut = None,
) -> None:
    """Print a shard's attributes and fields, and draw a contact sheet: views, then geometry, masks in red."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.cli.tables import shard_tables
    from mvad.datasets.shards.contact_sheet import as_png, attribute_rows, contact_sheet, facts, field_rows, sample_rows
    from mvad.datasets.shards.reader import open_shard

    with Bars(json_out) as bars:
        opened = open_shard(shard, not untrusted)
        if not opened.verified:
            bars.say(f"notice: no manifest lists {shard.name}; its structure was read in a separate process")
        for table in shard_tables(attribute_rows(opened), field_rows(opened), sample_rows(opened)):
            bars.show(table)
        bars.write_json(facts(opened))
        target = sheet or Path(f"{Path(opened.layout.attributes['category']).name}-{shard.stem}.png")
        files.write_bytes(target, as_png(contact_sheet(opened, samples)))
        bars.tell(f"contact sheet: {target}")
