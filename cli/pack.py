"""``mvad pack``: renders and Real-IAD into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Places, Workspace


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("pack", epilog="Example: mvad pack --dataset mvtec3d --category cable_gland")(pack)


def pack(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="mvtec3d, eyecandies, realiad; repeatable. Default: all found.")
    ] = None,
    category: Category = None,
    raw: Annotated[Path | None, typer.Option("--raw", help="Real-IAD's folder. Default: raw/realiad in the workspace.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    filter_name: Annotated[str, typer.Option("--filter", help="zstd, lz4, gzip or none.")] = "zstd",
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of Real-IAD's views in pixels; renders keep theirs.")] = 256,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Bounds memory: a sample is about 4 MB.")] = 128,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be packed, and stop.")] = False,
) -> None:
    """Pack rendered categories, and Real-IAD where it is, into HDF5 shards. Run it again to continue."""
    from mvad.cli.console import Bars
    from mvad.datasets import realiad
    from mvad.datasets.shards.contents import realiad_table, render_table, tasks
    from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders

    places = Places(workspace)
    realiad_raw = raw or places.raw("realiad")
    options = PackOptions(filter_name, samples_per_shard, size)
    with Bars() as bars:
        for name, found in tasks(places.renders, realiad_raw, dataset, category):
            if name == realiad.NAME and found not in realiad.KNOWN_CATEGORIES:
                bars.say(f"notice: {found} is no category of the published {name}; packing it all the same")
            if dry_run:
                lines = realiad_table(realiad_raw, found) if name == realiad.NAME else render_table(places.renders, name, found)
                for line in lines:
                    bars.say(line)
            elif name == realiad.NAME:
                bars.say(f"packed {pack_realiad(realiad_raw, found, places.shards, options, bars)}")
            else:
                bars.say(f"packed {pack_renders(places.renders, name, found, places.shards, options, bars)}")
