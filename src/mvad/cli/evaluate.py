"""``mvad evaluate``: evaluate runs on their test splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Offline, Places, TeacherWeights, Workspace, parse_views

if TYPE_CHECKING:
    from mvad.cli.console import Bars
    from mvad.model.evaluation.evaluate import EvaluationCallback


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate", epilog="Example: mvad evaluate --project-to-scan --raw downloads/mvtec3d")(evaluate)


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders. Default: all finished runs of the workspace.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    teacher_weights: TeacherWeights = None,
    offline: Offline = False,
    views: Annotated[
        str | None, typer.Option(help="Comma-separated view numbers: show only these, the others count as missing. Default: all.")
    ] = None,
    project_to_scan: Annotated[
        bool,
        typer.Option(
            "--project-to-scan", help="Carry the maps back to the raw scans, evaluate them there, write TIFF maps and PLY clouds."
        ),
    ] = False,
    fuse: Annotated[
        list[str] | None,
        typer.Option(
            help="How views meet on the scan: mean, max or visibility; repeatable, the first is written. Default: mean."
        ),
    ] = None,
    raw: Annotated[
        Path | None,
        typer.Option("--raw", help="Folder of the raw categories of one dataset. Default: raw/DATASET in the workspace."),
    ] = None,
    missing_views: Annotated[
        bool, typer.Option("--missing-views", help="Evaluate every subset of views, too: what missing views cost.")
    ] = False,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps", help="Evaluate another tool's maps on the scan grid instead; with --dataset, --category, --model."
        ),
    ] = None,
    dataset: Annotated[str, typer.Option(help="Of --maps: mvtec3d or eyecandies.")] = "mvtec3d",
    category: Category = None,
    model: Annotated[str, typer.Option(help="Of --maps: what to call the method in tables, such as M3DM.")] = "imported",
    adeval: Annotated[
        Path | None, typer.Option("--adeval", help="Write maps and masks for ADEval into DIR/RUN, too (anomaps.pkl).")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file, too.")] = None,
) -> None:
    """Score the test split: AUROC of samples, images and pixels with 95 % intervals, AP, F1, AUPRO; maps as pictures."""
    from mvad import files
    from mvad.cli.console import Bars
    from mvad.cli.tables import figures_tables, missing_tables, scan_table
    from mvad.datasets.registry import RawScans
    from mvad.errors import BadInput
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.evaluation.evaluate import evaluate_run
    from mvad.model.exchange.imported_maps import evaluate_scan_maps
    from mvad.model.runs import find_runs, read_facts

    if project_to_scan and views:
        raise BadInput("--project-to-scan carries back all views; leave out --views")
    places = Places(workspace)
    with Bars() as bars:
        results, missing = [], []
        if maps:
            for name in category or _only_category(maps):
                scans = RawScans(dataset, raw or places.raw(dataset), name)
                results.append(evaluate_scan_maps(places.runs / f"{dataset}-{name}-{model}-maps", model, maps, scans, bars))
        else:
            chosen = runs or find_runs(places.runs)
            if not chosen:
                raise BadInput(f"{places.runs}: no finished run; run mvad train first, or give --workspace")
            shown = parse_views(views) if views else []
            weights = WeightsSource(teacher_weights, places.weights, offline)
            for run in chosen:
                facts = read_facts(run)
                callbacks = _callbacks(run, facts, project_to_scan, fuse, raw or places.raw(facts["dataset"]), adeval, bars)
                results.append(evaluate_run(run, places.shards, weights, bars, shown, callbacks))
                if missing_views:
                    missing.append(_missing(run, places.shards, weights, bars))
    for table in (*figures_tables(results), *scan_table(results), *missing_tables(missing)):
        bars.console.print(table)
    if json_out:
        files.write_json(json_out, [{key: value for key, value in r.items() if key != "samples"} for r in results])


def _callbacks(
    run: Path, facts: dict[str, Any], project: bool, fuse: list[str] | None, raw: Path, adeval: Path | None, bars: Bars
) -> list[EvaluationCallback]:
    """Return who looks on while a run is evaluated."""
    from mvad.datasets.registry import SCAN_READERS, RawScans
    from mvad.errors import BadInput
    from mvad.model.evaluation.scan_maps import RULES, ScanEvaluator
    from mvad.model.exchange.adeval import ANOMAPS, SAMPLE_PATTERN, AdevalWriter

    found: list[EvaluationCallback] = []
    if project:
        if facts["dataset"] not in SCAN_READERS:
            raise BadInput(f"{run}: {facts['dataset']} has photographs, no scans; leave out --project-to-scan")
        unknown = set(fuse or []) - set(RULES)
        if unknown:
            raise BadInput(f"--fuse {min(unknown)}: choose from {', '.join(RULES)}")
        rules = [rule for rule in RULES if rule in fuse] if fuse else RULES[:1]
        ordered = sorted(rules, key=(fuse or [*RULES]).index)
        found.append(ScanEvaluator(run, RawScans(facts["dataset"], raw, facts["category"]), ordered))
    if adeval:
        target = adeval / run.name
        bars.say(f'ADEval: python -m adeval {target / ANOMAPS} --evaluate_size 256 --sample_key_pat "{SAMPLE_PATTERN}"')
        found.append(AdevalWriter(target))
    return found


def _missing(run: Path, shards: Path, weights: Any, bars: Bars) -> dict[str, Any]:
    from mvad.model.evaluation.missing_views import evaluate_missing_views

    return evaluate_missing_views(run, shards, weights, bars)


def _only_category(maps: Path) -> list[str]:
    """Return the categories that a folder of maps holds."""
    from mvad.errors import BadInput

    found = sorted(path.parent.name for path in maps.glob("*/test"))
    if not found:
        raise BadInput(f"{maps}: holds no <category>/test folder of maps; give --category, see docs/exchange.md")
    return found
