"""``mvad pack``: write renders, photographs of datasets, and folders of own photographs to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli import pack_folder
from mvad.cli.options import DEFAULT_WORKSPACE, Category, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: mvad pack --dataset mvtec3d --category cable_gland"
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    group.callback(epilog=example)(pack)
    pack_folder.register(group)
    app.add_typer(group, name="pack")


def pack(  # more than 60 lines: one parameter per option
    context: typer.Context,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="mvtec3d, realiad, mantatiny, ... (docs/sets.md); repeatable. Default: all found."),
    ] = None,
    category: Category = None,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw",
            help="Folder of the dataset of photographs named by --dataset, or of Real-IAD. Default: raw/DATASET in the workspace.",
        ),
    ] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    filter_name: Annotated[
        str, typer.Option("--filter", help="zstd, lz4 (faster, larger), gzip (readable with h5py alone) or none.")
    ] = "zstd",
    level: Annotated[
        int | None,
        typer.Option(
            min=1, max=22, help="Level of zstd (default: 6 for colours and masks, 3 for the rest) or gzip (default: 4)."
        ),
    ] = None,
    fields: Annotated[
        str, typer.Option(help="Fields to store, if the data have them; masks are always stored.")
    ] = "rgb,depth,normal,source",
    size: Annotated[
        int, typer.Option(min=32, max=2048, help="Side of the views of photographs in pixels; renders keep their size.")
    ] = 256,
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Uncompressed megabytes per file; bounds memory.")] = 512,
    jobs: Annotated[int, typer.Option(min=0, help="Number of samples processed at the same time; 0: one per core.")] = 0,
    splits: Annotated[
        str | None,
        typer.Option(
            help="Real-IAD's folder of split files, such as realiad_jsons_sv, or sv. Default: realiad_jsons, or the only one."
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Photographs: share of the training samples to hold out, so that runs get a threshold. 0: as published.",
        ),
    ] = 0.0,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Pack the finished part of a render that is not finished, and accept damaged photographs."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards of another configuration or version.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be packed, without packing.")] = False,
) -> None:
    """Pack rendered categories, and datasets of photographs that are present, into HDF5 shards. Repeat the command to continue.

    For your own photographs: mvad pack folder.
    """
    if context.invoked_subcommand is not None:
        return
    from mvad.cli.console import Bars
    from mvad.cli.pack_sets import ToPack, dry_run_of, known_categories, pack_one, tell_of_validation
    from mvad.cores import usable_cores
    from mvad.datasets.photographs.sets.registry import photograph_sets, set_tasks
    from mvad.datasets.shards.contents import tasks
    from mvad.datasets.shards.pack import PackOptions
    from mvad.errors import PartlyDone
    from mvad.failures import Failures
    from mvad.words import share

    places = Workspace(workspace)
    only = dataset[0] if dataset and len(dataset) == 1 and dataset[0] in photograph_sets() else None
    raws = {name: raw if raw and name == only else places.raw(name) for name in photograph_sets()}
    realiad_raw = raw if raw and only is None else places.raw("realiad")
    options = PackOptions(filter_name, level, tuple(fields.split(",")), size, shard_mb)
    parallel = jobs or usable_cores()
    with Bars() as bars:
        others, unreadable = set_tasks(raws, dataset, category)
        for line in unreadable:
            bars.say(f"notice: {line}")
        chosen = tasks(places.renders, realiad_raw, dataset, category, splits, others)
        work = ToPack(places.renders, realiad_raw, raws, places.shards, options, parallel, splits, validation, overwrite, partial)
        work.check(chosen)
        for dataset_name, name in chosen:
            if name not in known_categories(dataset_name, name):
                bars.say(f"notice: {name} is not a published category of {dataset_name}; it is packed nevertheless")
        if dry_run:
            dry_run_of(work, chosen, bars)
            return
        failures, missing = Failures(len(chosen), bars.say), 0
        for dataset_name, name in chosen:
            with failures.of(f"{dataset_name}/{name}"):
                made = pack_one(work, dataset_name, name, bars)
                bars.tell(f"packed {made}")
                missing += pack_folder.tell_of_shards(made.parent, bars)
                tell_of_validation(made, bars)
    failures.raise_if_any(f"{share(failures.count, len(chosen), 'category')} not packed")
    if missing and not partial:
        what = "sample is" if missing == 1 else "samples are"
        raise PartlyDone(f"{missing} {what} missing from the shards, as listed above; --partial accepts that")
