"""``mvad train``: train IDIF or a baseline on packed categories."""

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
from mvad.model.registry import methods
from mvad.pipeline.workspace import Workspace, packed_categories


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "train", epilog="Example: mvad train --model patchcore --category cable_gland --modalities rgb --set input.size=256"
    )(train)


def train(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help=f"{', '.join(methods())}. Repeatable. Default: idif.",
        ),
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; repeatable.")] = None,
    category: Category = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. Default: paper on CUDA, otherwise small.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable. Default: 0.")] = None,
    teacher: Annotated[str | None, typer.Option(help="auto, resnet18, efficientnet_lite0 or random.")] = None,
    teacher_weights: TeacherWeights = None,
    textures: Annotated[str | None, typer.Option(help="Folder with the images of DTD, or procedural.")] = None,
    modalities: Annotated[
        str | None, typer.Option(help="Comma-separated: rgb, depth, normal. Default: see mvad explain input.modalities.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(help="Share of the training samples to hold out, for choosing a configuration without labels. Default: 0."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: DATASET-CATEGORY-MODEL-seedN.")] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    config: Config = None,
    sets: Sets = None,
    offline: Offline = False,
    device: Device = "auto",
) -> None:
    """Train one detector per packed category. Repeat the command to continue it; a finished run is not trained again."""
    from mvad.cli.console import Bars
    from mvad.cli.tables import label_free_tables
    from mvad.datasets.shards.loader import ShardSet
    from mvad.errors import BadInput
    from mvad.failures import Failures
    from mvad.files import is_name
    from mvad.model.backbones.weights import WeightsSource
    from mvad.model.devices import default_preset, resolve_device
    from mvad.model.runs import RunFolder
    from mvad.model.training.parallel import join_process_group, leave_process_group
    from mvad.pipeline.training import Recipe
    from mvad.progress import Silent
    from mvad.words import folder_name, share

    places = Workspace(workspace)
    folders = packed_categories(places.shards, dataset, category)
    named = {"teacher": teacher, "pseudo.textures": textures, "input.modalities": modalities, "train.holdout": holdout}
    layers = layers_of(config, named, sets)
    given = {key: value for _, keys in layers for key, value in keys.items()}
    methods_wanted = model or [str(given.get("model", "idif"))]
    plans = [
        (folder, method, number) for folder in folders for method in methods_wanted for number in seed or [given.get("seed", 0)]
    ]
    if name is not None and not is_name(name):
        raise BadInput(f"--name {name}: must be the name of one folder, such as {folder_name(name)}")
    if name and len(plans) > 1:
        raise BadInput(
            f"--name {name} is the name of one run, but {len(plans)} are requested; leave it out, or give one category"
        )
    weights = WeightsSource(teacher_weights, places.weights, offline)
    ranks = join_process_group()
    chosen = resolve_device(device)
    finished: list[RunFolder] = []
    recipe = Recipe(preset or default_preset(chosen), layers, places.textures, weights, chosen, ranks)
    try:
        with Bars() as bars:
            progress = bars if ranks.rank == 0 else Silent()
            for method in methods_wanted:
                recipe.configured(method, 0)  # what is wrong with the keys is wrong for every run
            failures = Failures(
                len(plans) if ranks.size == 1 else 1, bars.say, groups=len(folders)
            )  # processes that train together must end together
            for folder, method, number in plans:
                with failures.of(f"{folder.parent.name}/{folder.name}, {method}, seed {number}", str(folder)):
                    run, trained = recipe.fit(places.runs, ShardSet(folder, "train"), method, number, progress, name)
                    if ranks.rank == 0:
                        bars.tell(f"{run}: {'trained' if trained else 'was trained already'}")
                    finished.append(RunFolder(run))
            if ranks.rank == 0:
                for table in label_free_tables(finished):
                    bars.show(table)
    finally:
        leave_process_group()
    failures.raise_if_any(f"{share(failures.count, len(plans), 'run')} not trained")
