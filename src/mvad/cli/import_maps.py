"""``mvad import``: another tool's anomaly maps of an export, evaluated as our own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("import", epilog="Example: mvad import exports/mvtec3d/cable_gland maps --name padim --model padim")(import_maps)


def import_maps(
    exported: Annotated[Path, typer.Argument(help="The exported category, OUT/DATASET/CATEGORY.")],
    maps: Annotated[Path, typer.Argument(help="Maps (.npy, .tiff, .png) in the export's tree; see docs/exchange.md.")],
    name: Annotated[str, typer.Option(help="Name of the run.")],
    model: Annotated[str, typer.Option(help="What to call the method in tables.")] = "imported",
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
) -> None:
    """Evaluate the maps against the shards' masks and labels, and keep figures and pictures as a run for the report."""
    from mvad.cli.console import Bars
    from mvad.cli.tables import figures_tables
    from mvad.errors import BadInput
    from mvad.model.exchange.imported_maps import evaluate_imported_maps

    if "/" in name or name in ("", ".", ".."):
        raise BadInput(f"--name {name}: must be the name of one folder")
    places = Workspace(workspace)
    with Bars() as bars:
        results = evaluate_imported_maps(places.runs / name, model, exported, maps, places.shards, bars)
        for table in figures_tables([results]):
            bars.show(table)
