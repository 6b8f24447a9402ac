"""``mvad export``: views as folders of pictures, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Places, Workspace, packed_categories


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export", epilog="Example: mvad export --layout anomalib --category cable_gland --out exports")(export)


def export(
    layout: Annotated[str, typer.Option(help="mvtec-ad or anomalib; see docs/exchange.md.")] = "mvtec-ad",
    modality: Annotated[str, typer.Option(help="rgb, normal or depth (8 bits, near bright).")] = "rgb",
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; repeatable.")] = None,
    category: Category = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A folder of a packed or rendered category; repeatable. Default: the shards."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: exports/LAYOUT-MODALITY in the workspace.")] = None,
) -> None:
    """Write one tree of pictures a view, with a table that leads back to the samples, so that any detector runs on them."""
    from mvad.cli.console import Bars
    from mvad.datasets.export import export as write
    from mvad.datasets.export import source_of

    places = Places(workspace)
    folders = source or packed_categories(places.shards, dataset, category)
    target = out or workspace / "exports" / f"{layout}-{modality}"
    with Bars() as bars:
        for folder in folders:
            bars.say(f"exported {write(source_of(folder), target, layout, modality, bars)}")
