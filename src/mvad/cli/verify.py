"""``mvad verify``: check the integrity of stored files, and rebuild damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, JsonOut, Offline, TeacherWeights, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", epilog="Example: mvad verify --workspace mvad-data")(verify)


def verify(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders of renders, shards or runs, or a file. Default: the workspace.")
    ] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild damaged files.")] = False,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw",
            help="Folder with DATASET/CATEGORY: also compare these raw files with the hashes taken when they were rendered or packed.",
        ),
    ] = None,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="The files are from another source: parse each shard in a separate process.")
    ] = False,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    json_out: JsonOut = None,
) -> None:
    """Check renders, shards and runs against their records: every file, every hash, labels against masks."""
    from mvad.cli.console import Bars
    from mvad.errors import BadInput
    from mvad.pipeline.verify import verify_workspace
    from mvad.words import counted, share

    places, checked_paths = Workspace(workspace), paths or [workspace]
    with Bars(json_out) as bars:
        checked, faults = verify_workspace(checked_paths, bars, not untrusted, places, raw)
        for fault in faults:
            bars.tell(fault.text)
        if not checked:
            raise BadInput(f"{checked_paths[0]}: holds no files of mvad; give the folder of a workspace")
        bars.tell(f"{counted(checked, 'file')} checked, {counted(len(faults), 'fault')}")
        if faults and repair:
            from mvad.model.backbones.weights import WeightsSource
            from mvad.pipeline.repair import repair as rebuild

            weights = WeightsSource(teacher_weights, places.weights, offline)
            rebuild(faults, raw or workspace / "raw", places, weights, bars)
            before = len(faults)
            checked, faults = verify_workspace(checked_paths, bars, not untrusted, places, raw)
            for fault in faults:
                bars.tell(f"still: {fault.text}")
            bars.tell(f"{counted(checked, 'file')} checked again, {share(len(faults), before, 'fault')} left")
        bars.write_json({"checked": checked, "faults": [{"path": str(f.path), "kind": f.kind, "text": f.text} for f in faults]})
    if faults:
        remedy = "the messages above say how to rebuild each" if repair else "--repair rebuilds damaged files"
        raise BadInput(f"{share(len(faults), checked, 'file')} not what was written; {remedy}")
