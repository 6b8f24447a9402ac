"""``mvad doctor``: check which components work on this machine, one line per component, with a remedy where one does not."""

from __future__ import annotations

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, JsonOut, Offline, TeacherWeights, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: mvad doctor --workspace mvad-data")(doctor)


def doctor(
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE, teacher_weights: TeacherWeights = None, offline: Offline = False,
    json_out: JsonOut = None,
) -> None:  # fmt: skip
    """Check Python, torch, EGL, open3d, trimesh, disk, data, teachers and textures. Exit 5 if something needed is missing."""
    from mvad.cli.console import Bars
    from mvad.errors import MissingComponent
    from mvad.pipeline.doctor import all_checks

    with Bars(json_out) as bars:
        checks = all_checks(Workspace(workspace), teacher_weights, offline)
        for check in checks:
            mark = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "missing": "[red]no[/]  "}[check.state]
            bars.results.print(mark, end=" ")
            bars.tell(f"{check.name}: {check.text}")
        bars.write_json([dict(check.__dict__) for check in checks])
    broken = [check.name for check in checks if check.state == "missing"]
    if broken:
        raise MissingComponent(f"{', '.join(broken)}: see the remedy in its line above")
