"""``mvad watch``: decide on parts as they arrive in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import Device, FalseAlarms, FixedThreshold, Offline, TeacherWeights, WorkspaceOfRun
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("watch", epilog="Example: mvad watch mvad-data/runs/folder-parts-padim-seed0 arriving --once")(watch)


def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    source: Annotated[
        Path,
        typer.Argument(help="Folder in which parts arrive: photographs in the layout in which they were packed, or raw scans."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for decisions.jsonl, pictures and maps. Default: watch/NAME in the run's folder."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds after which a part is decided with the views that have arrived.")
    ] = 30.0,
    settle: Annotated[float, typer.Option(min=0.0, help="Seconds for which a file must have stayed unchanged.")] = 0.3,
    command: Annotated[
        str,
        typer.Option(
            "--exec", help="Command that gets each decision as JSON on standard input, with MVAD_PART and MVAD_DECISION set."
        ),
    ] = "",
    webhook: Annotated[str, typer.Option("--webhook", help="Address to which each decision is sent by POST, as JSON.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Stop when all parts in the folder are decided.")] = False,
    maps: Annotated[
        str,
        typer.Option(
            "--maps", help="Parts whose maps and pictures are written: all, anomalous or none; five views of 256 px take 1.2 MB."
        ),
    ] = "all",
    false_alarms: FalseAlarms = 0.05,
    threshold: FixedThreshold = None,
    workspace: WorkspaceOfRun = None,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    device: Device = "auto",
) -> None:
    """Decide on each part once, when its pictures are complete or its time has run out.

    A restart continues the work, and no part is lost. Decisions are appended to decisions.jsonl; a part that cannot be read is
    decided as failed. With --once: exit code 6 if some parts failed.
    """
    from mvad.cli.console import Bars
    from mvad.errors import BadInput, PartlyDone
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.pipeline.judge import Judge
    from mvad.pipeline.trained_run import workspace_of
    from mvad.pipeline.watch import OF_WHICH, Watch, WatchOptions, candidates_of
    from mvad.words import check_known, counted

    if not source.is_dir():
        raise BadInput(f"{source}: not found; give the folder in which parts arrive")
    if command and not command.strip():
        raise BadInput("--exec: expected a command")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise BadInput(f"--webhook {webhook}: expected an address that begins with http:// or https://")
    check_known("--maps", [maps], OF_WHICH)
    places = Workspace(workspace) if workspace else workspace_of(run)
    weights = WeightsSource(teacher_weights, places.weights, offline)
    options = WatchOptions(timeout, settle, command=command, webhook=webhook, once=once, maps=maps)
    with Bars() as bars:
        judge = Judge.load(run, places, weights, resolve_device(device), false_alarms, threshold, bars)
        target = out or run / "watch" / source.resolve().name
        bars.tell(judge.thresholds.describe())
        bars.tell(f"watching {source}; decisions: {target / 'decisions.jsonl'}")
        watching = Watch(judge, candidates_of(judge, source, places, bars), target, options, source, bars.tell, bars)
        done = watching.run()
        bars.tell(f"{counted(done.decided, 'part')} decided")
    if done.failed or done.untold:
        raise PartlyDone(
            f"{counted(done.failed, 'part')} could not be decided, {counted(done.untold, 'decision')} could not be told; "
            f"{target / 'decisions.jsonl'} has the reasons, another start tells again"
        )
