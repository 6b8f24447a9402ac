"""``mvad verify``: check every stored byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Workspace


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("verify", epilog="Example: mvad verify --workspace mvad-data")(verify)


def verify(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders of renders, shards or runs. Default: the workspace.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Check renders, shards and runs against their records: every file, every hash, labels against masks."""
    from mvad.cli.console import Bars
    from mvad.datasets.verify import verify_tree
    from mvad.errors import BadInput

    with Bars() as bars:
        checked, faults = verify_tree(paths or [workspace], bars)
        for fault in faults:
            bars.say(fault)
        if not checked:
            raise BadInput(f"{(paths or [workspace])[0]}: holds nothing that mvad wrote; give the folder of a workspace")
        bars.say(f"{checked} files checked, {len(faults)} faults")
    if faults:
        raise BadInput(f"{len(faults)} of {checked} files are not what was written; the lines above say what rebuilds each")
