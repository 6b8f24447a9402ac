"""``mvad status``: list what a workspace holds."""

from __future__ import annotations

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, JsonOut, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status", epilog="Example: mvad status --workspace mvad-data")(status)


def status(workspace: WorkspaceFolder = DEFAULT_WORKSPACE, json_out: JsonOut = None) -> None:
    """List raw data, renders, shards and runs of a workspace, with the state of each run and its S-AUROC."""
    from mvad.cli.console import Bars
    from mvad.cli.tables import status_tables
    from mvad.pipeline.status import status_of

    with Bars(json_out) as bars:
        found = status_of(Workspace(workspace))
        for table in status_tables(found):
            bars.show(table)
        if not any(found.values()):
            bars.tell(f"{workspace}: holds nothing yet; mvad synth, render, pack and train fill it")
        bars.write_json({"workspace": str(workspace), **found})
