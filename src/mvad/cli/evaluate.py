"""``mvad evaluate``: evaluate runs on their test splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvad.cli.options import (
    DEFAULT_WORKSPACE,
    Category,
    Device,
    JsonOut,
    Offline,
    TeacherWeights,
    WorkspaceFolder,
    parse_views,
    refuse_without_effect,
)
from mvad.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from mvad.model.evaluation.results import Results


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog="Example: mvad evaluate --project-to-scan --raw downloads/mvtec3d")(evaluate)


def evaluate(  # more than 60 lines: one parameter per option
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders. Default: all finished runs of the workspace.")] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    device: Device = "auto",
    views: Annotated[
        str | None, typer.Option(help="Comma-separated view numbers: use only these, the others count as missing. Default: all.")
    ] = None,
    project_to_scan: Annotated[
        bool,
        typer.Option(
            "--project-to-scan",
            help="Project the maps to the raw scans, evaluate them there, and write TIFF maps and PLY point clouds.",
        ),
    ] = False,
    fuse: Annotated[
        list[str] | None,
        typer.Option(
            help="Rule for fusing the views on the scan: mean, max or visibility. Repeatable; maps of the first are written. Default: mean."
        ),
    ] = None,
    raw: Annotated[
        Path | None,
        typer.Option("--raw", help="Folder with the raw categories of one dataset. Default: raw/DATASET in the workspace."),
    ] = None,
    missing_views: Annotated[
        bool,
        typer.Option("--missing-views", help="Also evaluate every subset of the views, to measure the effect of missing views."),
    ] = False,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps", help="Evaluate another tool's maps on the scans' grid instead; use with --dataset, --category, --model."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only runs on this dataset. With --maps: mvtec3d (default) or eyecandies.")
    ] = None,
    category: Category = None,
    model: Annotated[
        str | None, typer.Option(help="With --maps: name of the method in tables, such as M3DM. Default: imported.")
    ] = None,
    adeval: Annotated[
        Path | None, typer.Option("--adeval", help="Also write maps and masks for ADEval to DIR/RUN (anomaps.pkl).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for the results, with one folder per run, as input for mvad report. Default: the runs' folders."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also evaluate runs of the workspace again that were evaluated already.")
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Evaluate on the test split: AUROC of samples, images and pixels with 95 % intervals, AP, F1, AUPRO; maps as pictures."""
    from mvad.cli.console import Bars
    from mvad.cli.tables import bound_lines, figures_tables, missing_tables, rule_table, scan_table
    from mvad.errors import BadInput
    from mvad.failures import Failures
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import resolve_device
    from mvad.pipeline.evaluation import EvaluationPlan, evaluate_maps_of
    from mvad.words import share

    if project_to_scan and views:
        raise BadInput("--project-to-scan projects all views; leave out --views")
    of_runs = {
        "RUN": runs, "--views": views, "--project-to-scan": project_to_scan, "--missing-views": missing_views, "--fuse": fuse,
        "--adeval": adeval, "--again": again,
    }  # fmt: skip
    refuse_without_effect(of_runs, maps is not None, "the maps of another tool; leave it out, or --maps")
    refuse_without_effect({"--model": model}, maps is None, "runs, whose methods are known; leave it out, or give --maps")
    refuse_without_effect({"--raw": raw, "--fuse": fuse}, maps is None and not project_to_scan, "views; add --project-to-scan")
    named = {"--dataset": dataset, "--category": category, "--again": again}
    refuse_without_effect(named, bool(runs), "runs that are named; leave it out, or them")
    places = Workspace(workspace)
    results: list[Results] = []
    missing = []
    with Bars(json_out) as bars:
        failures = Failures(1, bars.say)
        if maps:
            results = list(evaluate_maps_of(maps, dataset or "mvtec3d", category, model or "imported", places, raw, bars, out))
        else:
            plan = EvaluationPlan(
                places, WeightsSource(teacher_weights, places.weights, offline), resolve_device(device),
                parse_views(views) if views else [], project_to_scan, fuse or [], raw, adeval, out,
            )  # fmt: skip
            chosen = plan.chosen(runs, bars, dataset, category)
            failures = Failures(1 if runs else len(chosen), bars.say, names_are_general=False)
            for run in chosen:
                with failures.of(run.name, plan.category_of(run)):
                    found = None if again or runs else plan.earlier(run)
                    if found is not None:
                        bars.say(f"{run.name}: was evaluated already; --again evaluates it again")
                    of_subsets = found and missing_views and plan.earlier_missing_views(run, found)
                    found = found or plan.evaluate(run, bars)
                    missing += [of_subsets or plan.missing_views(run, bars)] if missing_views else []
                    results.append(found)
        for table in (*figures_tables(results), *rule_table(results), *scan_table(results), *missing_tables(missing)):
            bars.show(table)
        for line in bound_lines(results):
            bars.say(line)
        rows = [result.to_json() for result in results]
        bars.write_json([{name: value for name, value in row.items() if name != "samples"} for row in rows])
    failures.raise_if_any(f"{share(failures.count, failures.parts, 'run')} not evaluated")
