"""``mvad reproduce``: reproduce the paper's tables."""

from __future__ import annotations

from typing import Annotated

import typer

from mvad.cli.options import (
    DEFAULT_WORKSPACE,
    Category,
    Config,
    Device,
    Offline,
    Sets,
    TeacherWeights,
    WorkspaceFolder,
    layers_of,
)
from mvad.model.config import PRESETS
from mvad.pipeline.workspace import Workspace, packed_categories


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reproduce", epilog="Example: mvad reproduce table2 --model patchcore --category cable_gland --seed 0")(reproduce)


def reproduce(  # more than 60 lines: one parameter per option
    table: Annotated[str, typer.Argument(help="table1, table2, table3 or missing-views.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Only this method; repeatable. Default: all methods of the table.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", help="Repeatable. Default: the datasets of the table. table3 and missing-views accept others, too."
        ),
    ] = None,
    category: Category = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable. Default: 0.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. Default: paper on CUDA, otherwise small.")] = None,
    teacher: Annotated[str | None, typer.Option(help="auto, resnet18, efficientnet_lite0 or random.")] = None,
    teacher_weights: TeacherWeights = None,
    textures: Annotated[str | None, typer.Option(help="Folder with the images of DTD, or procedural.")] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    config: Config = None,
    sets: Sets = None,
    offline: Offline = False,
    device: Device = "auto",
) -> None:
    """Train and evaluate the runs of a table of the paper, and print figures beside the paper's. Repeat the command to continue."""
    from mvad.cli.console import Bars
    from mvad.cli.tables import figure_4_table, paper_tables
    from mvad.errors import BadInput, PartlyDone
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import default_preset, resolve_device
    from mvad.model.paper.rows import arithmetic, missing_rows
    from mvad.model.paper.tables import TABLES
    from mvad.pipeline import reproduce as work
    from mvad.pipeline.paper_files import write_figure_4, write_table
    from mvad.pipeline.training import Recipe
    from mvad.words import counted, no_such, share

    if table not in TABLES:
        raise no_such("reproduce", table, TABLES)
    chosen, places = TABLES[table], Workspace(workspace)
    foreign = work.imported(places.runs, chosen, dataset, model, category)
    try:
        packed = [name for name in chosen.datasets if any((places.shards / name).glob("*/manifest.json"))]
        if not dataset and not packed:
            raise BadInput(
                f"{places.shards}: holds none of {', '.join(chosen.datasets)}; run mvad pack first, or give --workspace"
            )
        folders = packed_categories(places.shards, dataset or packed, category)
    except BadInput:
        if not foreign or category:  # imported maps can be compared with the paper's without any shards
            raise
        folders = []
    plans = work.plan(chosen, folders, model, list(dict.fromkeys(seed or [0])))
    layers = layers_of(config, {"teacher": teacher, "pseudo.textures": textures}, sets)
    chosen_device = resolve_device(device)
    weights = WeightsSource(teacher_weights, places.weights, offline)
    recipe = Recipe(preset or default_preset(chosen_device), layers, places.textures, weights, chosen_device)
    with Bars() as bars:
        reproduced = work.reproduce(chosen, plans, places.runs, places.shards, recipe, bars)
        if plans and not reproduced.failures.done and not foreign:
            raise PartlyDone(f"none of {counted(len(plans), 'run')} could be trained and evaluated; see the messages above")
        remarks = work.notes(chosen, plans, reproduced.failed)
        target = places.reports / f"reproduce-{chosen.name}"
        if chosen.name == "missing-views":
            rows, curves = missing_rows(reproduced.missing, recipe.preset)
            remarks = [arithmetic(), *remarks]
            bars.show(figure_4_table(rows, chosen.title))
            write_figure_4(target, chosen.title, rows, curves, remarks)
        else:
            lines = work.rows_of(chosen, reproduced.results, foreign, recipe.preset)
            for shown in paper_tables(lines, chosen.title):
                bars.show(shown)
            write_table(target, chosen.title, lines, remarks)
        for line in remarks:
            bars.tell(line)
        bars.tell(f"written: {target}.md, {target.name}.json")
    failures = reproduced.failures
    failures.raise_if_any(f"{share(failures.count, len(plans), 'run')} not in the table")
