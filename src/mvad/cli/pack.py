"""``mvad pack``: renders and Real-IAD into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("pack", epilog="Example: mvad pack --dataset mvtec3d --category cable_gland")(pack)


def pack(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="mvtec3d, eyecandies, realiad; repeatable. Default: all found.")
    ] = None,
    category: Category = None,
    raw: Annotated[Path | None, typer.Option("--raw", help="Real-IAD's folder. Default: raw/realiad in the workspace.")] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    filter_name: Annotated[str, typer.Option("--filter", help="zstd, lz4 (faster, larger), gzip (plain h5py) or none.")] = "zstd",
    level: Annotated[
        int | None, typer.Option(min=1, max=22, help="Of zstd (default: 6 for colours and masks, 3 for the rest) or gzip (4).")
    ] = None,
    fields: Annotated[str, typer.Option(help="Which to keep, where they are; masks always are.")] = "rgb,depth,normal,source",
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of Real-IAD's views in pixels; renders keep theirs.")] = 256,
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Uncompressed megabytes a file; bounds memory.")] = 512,
    jobs: Annotated[int, typer.Option(min=0, help="Samples in flight; 0 takes the processor's cores.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards of another configuration.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be packed, and stop.")] = False,
) -> None:
    """Pack rendered categories, and Real-IAD where it is, into HDF5 shards. Run it again to continue."""
    import os

    from mvad.cli.console import Bars
    from mvad.cli.tables import contents_table
    from mvad.datasets import realiad
    from mvad.datasets.shards.contents import count, tasks
    from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
    from mvad.errors import BadInput, PartlyDone

    places = Workspace(workspace)
    realiad_raw = raw or places.raw("realiad")
    options = PackOptions(filter_name, level, tuple(fields.split(",")), size, shard_mb)
    flying = jobs or os.cpu_count() or 1
    with Bars() as bars:
        found = tasks(places.renders, realiad_raw, dataset, category)
        for dataset_name, name in found:
            if dataset_name == realiad.NAME and name not in realiad.KNOWN_CATEGORIES:
                bars.say(f"notice: {name} is no category of the published {dataset_name}; packing it all the same")
        if dry_run:
            bars.show(contents_table([row for pair in found for row in count(places.renders, realiad_raw, *pair)]))
            return
        failed = 0
        for dataset_name, name in found:
            try:
                if dataset_name == realiad.NAME:
                    made = pack_realiad(realiad_raw, name, places.shards, options, bars, flying, overwrite)
                else:
                    made = pack_renders(places.renders, dataset_name, name, places.shards, options, bars, flying, overwrite)
                bars.say(f"packed {made}")
            except BadInput as error:
                if len(found) == 1:
                    raise
                failed += 1
                bars.say(f"failed: {dataset_name}/{name}: {error}")
    if failed:
        raise PartlyDone(f"{failed} of {len(found)} categories are not packed; the lines above say why")
