"""``mvad evaluate``: judge runs on their test splits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Offline, Places, TeacherWeights, Workspace, parse_views


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate", epilog="Example: mvad evaluate mvad-data/runs/mvtec3d-cable_gland-patchcore-seed0")(evaluate)


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders. Default: all finished runs of the workspace.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    views: Annotated[
        str | None, typer.Option(help="Comma-separated view numbers: show only these, the others count as missing. Default: all.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file, too.")] = None,
) -> None:
    """Score the test split: S-AUROC, image AUROC, P-AUROC by category and their mean; maps as pictures."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.cli.tables import figures_tables
    from mvad.errors import BadInput
    from mvad.model.judging.evaluate import evaluate_run
    from mvad.model.judging.runs import find_runs
    from mvad.model.teachers.weights import WeightsSource

    places = Places(workspace)
    chosen = runs or find_runs(places.runs)
    if not chosen:
        raise BadInput(f"{places.runs}: no finished run; run mvad train first, or give --workspace")
    shown = parse_views(views) if views else []
    weights = WeightsSource(teacher_weights, places.weights, offline)
    with Bars() as bars:
        results = [evaluate_run(run, places.shards, weights, bars, shown) for run in chosen]
    for table in figures_tables(results):
        bars.console.print(table)
    if json_out:
        files.write_json(json_out, [{key: value for key, value in r.items() if key != "samples"} for r in results])
