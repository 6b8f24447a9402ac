"""``mvad predict``: score new scans, rendered on the fly, or packed samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import Device, FalseAlarms, FixedThreshold, JsonOut, Offline, TeacherWeights, WorkspaceOfRun
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "predict",
        epilog="Example: mvad predict mvad-data/runs/mvtec3d-cable_gland-patchcore-seed0 downloads/mvtec3d/cable_gland/test",
    )(predict)


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with raw scans or photographs (searched recursively), folder of a packed category, or a shard (.h5)."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the predictions. Default: predictions/NAME in the run's folder.")
    ] = None,
    false_alarms: FalseAlarms = 0.05,
    threshold: FixedThreshold = None,
    split: Annotated[str, typer.Option(help="Split of a packed category: train, validation, test or private.")] = "test",
    light: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Eyecandies: number of the image for colours. Default: as in the category's renders."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also score samples of another category, or from other cameras, than the run was trained on."
        ),
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write an HTML page with pictures, maps, decisions and what caused them.")
    ] = None,
    workspace: WorkspaceOfRun = None,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    device: Device = "auto",
    json_out: JsonOut = None,
) -> None:
    """Score samples; write a CSV file with one decision per sample, maps, latency. Exit code 6 if some could not be scored."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.cli.tables import pose_lines
    from mvad.errors import PartlyDone
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.model.evaluation.predict import FAILED, PREDICTIONS
    from mvad.model.evaluation.predict import predict as score
    from mvad.model.evaluation.threshold import Thresholds
    from mvad.model.report.decisions import build_decisions
    from mvad.model.runs import RunFolder
    from mvad.pipeline.predict import samples_of
    from mvad.pipeline.trained_run import workspace_of
    from mvad.words import counted

    places, folder = Workspace(workspace) if workspace else workspace_of(run), RunFolder(run)
    samples = samples_of(source, folder, places, split, light, force)
    detector = folder.load(WeightsSource(teacher_weights, places.weights, offline), resolve_device(device))
    target = out or run / "predictions" / (source.stem if source.suffix == ".h5" else source.resolve().name)
    with Bars(json_out) as bars:
        used = Thresholds(folder, detector, folder.category_folder(places.shards), false_alarms, bars, threshold)
        bars.tell(f"{used.describe()} of {places.root}" if threshold is None else used.describe())
        names = (folder.record.pictures or {}).get("views", ())
        done = score(detector, folder.model_sha256, used, samples, len(samples), target, bars, names)
        bars.tell(done.describe())
        for line in done.incomplete_lines():
            bars.tell(line)
        for line in pose_lines(done.poses(), PREDICTIONS):
            bars.tell(line)
        bars.write_json({
            "run": str(run), "source": str(source), "threshold": used.whole.value, "promised_false_alarms": used.whole.promised,
            "samples": [row.to_json() for row in done.rows], "failed": done.failed,
        })  # fmt: skip
        bars.tell(f"written: {target / PREDICTIONS}")
        if page is not None:
            failed = [(line["key"], line["reason"]) for line in files.read_lines(target / FAILED)]
            files.write_text(page, build_decisions(done, failed, target, run.resolve().name, used.describe(), names))
            bars.tell(f"page: {page}")
    if done.failed:
        raise PartlyDone(
            f"{done.failed} of {counted(len(samples), 'sample')} could not be scored; {target / 'failed.jsonl'} has the reasons"
        )
