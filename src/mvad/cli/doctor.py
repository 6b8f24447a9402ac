"""``mvad doctor``: check which components work on this machine, one line per component, with a remedy where one does not."""

from __future__ import annotations

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Offline, TeacherWeights, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: mvad doctor --workspace mvad-data")(doctor)


def doctor(
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE, teacher_weights: TeacherWeights = None, offline: Offline = False
) -> None:
    """Check Python, torch, EGL, open3d, trimesh, disk, data, teachers and textures. Exit 5 if something needed is missing."""
    from rich.console import Console

    from mvad.errors import MissingComponent
    from mvad.pipeline.doctor import all_checks

    console = Console(highlight=False)
    broken = []
    for check in all_checks(Workspace(workspace), teacher_weights, offline):
        mark = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "missing": "[red]no[/]  "}[check.state]
        console.print(mark, end=" ")
        console.print(f"{check.name}: {check.text}", markup=False, soft_wrap=True)
        if check.state == "missing":
            broken.append(check.name)
    if broken:
        raise MissingComponent(f"{', '.join(broken)}: see the remedy in its line above")
