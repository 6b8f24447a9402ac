"""``mvad serve``: decide on parts over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import Device, FalseAlarms, FixedThreshold, Offline, TeacherWeights, WorkspaceOfRun
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", epilog="Example: mvad serve mvad-data/runs/folder-parts-padim-seed0 --port 8000")(serve)


def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was trained on your own photographs.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1: only this machine can connect.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="MVAD_SERVE_TOKEN", help="Secret text that requests must send, as Authorization: Bearer TOKEN.")
    ] = "",
    queue: Annotated[
        int, typer.Option(min=0, help="Number of parts that may wait while one is scored; further ones are refused with 429.")
    ] = 4,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Greatest size of a request in megabytes.")] = 64.0,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest time for receiving a request, in seconds.")] = 30.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Greatest total size of the pictures of a part, in megapixels.")
    ] = 128.0,
    false_alarms: FalseAlarms = 0.05,
    threshold: FixedThreshold = None,
    workspace: WorkspaceOfRun = None,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    device: Device = "auto",
) -> None:
    """Serve a run over HTTP: POST /predict with one file per view returns the decision; also /health, /metrics, /docs.

    Needs FastAPI and uvicorn: pip install 'mvad[serve]'.
    """
    from mvad.cli.console import Bars
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.pipeline.judge import Judge
    from mvad.pipeline.serve import ServeOptions, make_app, warm_up
    from mvad.pipeline.serve import serve as listen
    from mvad.pipeline.trained_run import workspace_of

    places = Workspace(workspace) if workspace else workspace_of(run)
    weights = WeightsSource(teacher_weights, places.weights, offline)
    with Bars() as bars:
        judge = Judge.load(run, places, weights, resolve_device(device), false_alarms, threshold, bars)
        app = make_app(judge, ServeOptions(max_mb, max_megapixels, queue, token, max_seconds))
        warm_up(judge)
        bars.tell(judge.thresholds.describe())
        if host not in ("127.0.0.1", "localhost", "::1") and not token:
            bars.say(f"notice: everybody who reaches {host} can ask; --token asks for a text that only yours know")
        bars.tell(f"serving {judge.run.name} on http://{host}:{port}/ (POST /predict, GET /health, /metrics, /docs)")
    listen(app, host, port)
