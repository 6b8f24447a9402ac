"""``mvad import``: evaluate another tool's anomaly maps of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", epilog="Example: mvad import exports/mvtec3d/cable_gland maps --name padim --model padim")(import_maps)


def import_maps(
    exported: Annotated[Path, typer.Argument(help="Folder of the exported category, OUT/DATASET/CATEGORY.")],
    maps: Annotated[
        Path, typer.Argument(help="Folder of maps (.npy, .tiff, .png) in the layout of the export; see docs/exchange.md.")
    ],
    name: Annotated[str, typer.Option(help="Name of the run.")],
    model: Annotated[str, typer.Option(help="Name of the method in tables.")] = "imported",
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
) -> None:
    """Evaluate the maps with the shards' masks and labels, and store figures and pictures as a run for the report."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.cli.tables import figures_tables
    from mvad.errors import BadInput
    from mvad.model.exchange.imported_maps import evaluate_imported_maps
    from mvad.words import folder_name

    if not files.is_name(name):
        raise BadInput(f"--name {name}: must be the name of one folder, such as {folder_name(name)}")
    places = Workspace(workspace)
    with Bars() as bars:
        results = evaluate_imported_maps(places.runs / name, model, exported, maps, places.shards, bars)
        for table in figures_tables([results]):
            bars.show(table)
