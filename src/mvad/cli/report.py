"""``mvad report``: write one HTML page on evaluated runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog="Example: mvad report --out report.html")(report)


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders. Default: all evaluated runs of the workspace.")] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file. Default: report.html in the workspace.")] = None,
) -> None:
    """Write a self-contained page: figures beside those of the paper, curves, and a gallery of views with maps."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.errors import BadInput
    from mvad.model.evaluation.results import RESULTS
    from mvad.model.report.page import build_page

    places = Workspace(workspace)
    evaluated = runs or sorted(path.parent for path in places.runs.glob(f"*/{RESULTS}"))
    if not evaluated:
        raise BadInput(f"{places.runs}: no evaluated run; run mvad evaluate first, or give --workspace")
    target = out or workspace / "report.html"
    with Bars() as bars:
        files.write_text(target, build_page(evaluated))
        bars.tell(f"report: {target}")
