"""``mvad pack folder``: write own photographs to shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, WorkspaceFolder
from mvad.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from mvad.cli.console import Bars

_SHOWN = 200


def register(group: typer.Typer) -> None:
    """Add the command below ``mvad pack``."""
    group.command("folder", epilog="Example: mvad pack folder parts --crop auto")(folder)


def folder(  # more than 60 lines: one parameter per option
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with photographs: train/good/PART/VIEW.png, test/good/..., test/DEFECT/...; or with several such categories."
        ),
    ],
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")] = "folder",
    category: Annotated[
        str | None,
        typer.Option("--category", help="Name of the category; a slash becomes a hyphen. Default: the name of the folder."),
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            help="Pattern of the file names, such as {sample}_{view}.jpg, also with {split}, {defect}, {group}; or a regular expression with such groups."
        ),
    ] = "",
    table: Annotated[
        Path | None,
        typer.Option(help="CSV or JSONL file with one picture per row: sample,view,split,defect,image,mask,depth,normal,group."),
    ] = None,
    montage: Annotated[
        str, typer.Option(help="COLUMNSxROWS: one picture shows all views of a part, side by side in a grid.")
    ] = "1x1",
    group: Annotated[
        str, typer.Option(help="Regular expression; parts whose names agree in its first group stay in the same split.")
    ] = "",
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the good parts to hold out if there is no validation split.")
    ] = 0.2,
    test: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Share of the good parts to use for testing if there are defects but no splits."),
    ] = 0.2,
    crop: Annotated[
        str,
        typer.Option(help="none, or auto: crop each view to the object on its plain background, in the same way for all parts."),
    ] = "none",
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of a view in pixels.")] = 256,
    unit: Annotated[str, typer.Option(help="Unit of depth maps: m, cm, mm, um.")] = "m",
    licence: Annotated[str, typer.Option(help="Licence of the photographs, written into the shards.")] = "not stated",
    filter_name: Annotated[
        str, typer.Option("--filter", help="zstd, lz4 (faster, larger), gzip (readable with h5py alone) or none.")
    ] = "zstd",
    level: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=22,
            help="Level of zstd (default: 1) or gzip (4); higher levels are slower and make files a few percent smaller.",
        ),
    ] = None,
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Uncompressed megabytes per file; bounds memory.")] = 512,
    jobs: Annotated[int, typer.Option(min=0, help="Number of parts read at the same time; 0: one per core.")] = 0,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what is wrong, and pack the rest.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards of another configuration or version.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count parts by split, defect and view, and print what is wrong.")
    ] = False,
) -> None:
    """Pack your own photographs of parts, from one side or several, into HDF5 shards. Repeat the command to continue.

    Pictures may be PNG, JPEG, BMP, TIFF or WebP, of any size, grey or colour. The files VIEW_mask.png, VIEW_depth.tiff and
    VIEW_normal.png may lie beside VIEW.png. Good parts alone are enough.
    """
    from mvad.cli.console import Bars
    from mvad.cli.contents import parts_table
    from mvad.cores import usable_cores
    from mvad.datasets import realiad
    from mvad.datasets.own.options import NOT_STATED
    from mvad.datasets.photographs.category import NAME, FolderOptions, category_source, check_sound, find
    from mvad.datasets.photographs.framing import header_problems
    from mvad.datasets.photographs.layouts import Layout
    from mvad.datasets.photographs.sets.registry import photograph_sets
    from mvad.datasets.registry import GENERATED, GENERATED_LICENCE, find_reader
    from mvad.datasets.shards.pack import PackOptions, pack_category
    from mvad.errors import BadInput, PartlyDone
    from mvad.failures import Failures
    from mvad.words import counted, folder_name, share

    if folder_name(name) != name:
        raise BadInput(f"--name {name}: cannot be the name of a folder; choose another")
    if name != NAME and (find_reader(name) is not None or name in (realiad.NAME, *photograph_sets())):
        raise BadInput(f"--name {name}: is that of a published dataset, or of own scans; choose another")
    parallel = jobs or usable_cores()
    if category is not None:
        category = folder_name(category)
    if licence == NOT_STATED and (source / GENERATED).exists():
        licence = GENERATED_LICENCE
    layout = Layout(pattern, _grid(montage), group)
    options = FolderOptions(name, category, layout, table, validation, test, crop, unit, licence, size, parallel)
    places, missing = Workspace(workspace), 0
    with Bars() as bars:
        found = find(source, options)
        for each in found:
            each.listing.problems += header_problems(each.listing.samples, parallel) if dry_run else []
            for line in each.problems[:_SHOWN]:
                bars.say(f"problem: {line}")
            if len(each.problems) > _SHOWN:
                bars.say(f"and {counted(len(each.problems) - _SHOWN, 'problem')} more")
            if dry_run:
                bars.show(parts_table(each.name, each.samples))
                for note in each.listing.notes:
                    bars.tell(f"notice: {note}")
        for each in found:
            check_sound(each, partial or dry_run)
        if dry_run:
            wrong = sum(len(each.problems) for each in found)
            if wrong and not partial:
                raise BadInput(
                    f"{source}: {counted(wrong, 'problem')}, as listed above; mend them, or leave what they name out by --partial"
                )
            return
        packing = PackOptions(filter_name, level or (1 if filter_name == "zstd" else None), size=size, shard_mb=shard_mb)
        failures = Failures(len(found), bars.say)
        for each in found:
            with failures.of(f"{name}/{each.name}"):
                made = pack_category(category_source(each, options), places.shards, packing, bars, parallel, overwrite, partial)
                bars.tell(f"packed {made}")
                missing += tell_of_shards(made.parent, bars)
    failures.raise_if_any(f"{share(failures.count, len(found), 'category')} not packed")
    if missing and not partial:
        what = "part is" if missing == 1 else "parts are"
        raise PartlyDone(f"{missing} {what} missing from the shards, as listed above; --partial accepts that")


def _grid(text: str) -> tuple[int, int]:
    from mvad.datasets.photographs.layouts import MAX_VIEWS
    from mvad.errors import BadInput

    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text.lower())
    if found is None or int(found[1]) * int(found[2]) > MAX_VIEWS:
        raise BadInput(f"--montage {text}: expected COLUMNSxROWS, such as 5x1, at most {MAX_VIEWS} views")
    return int(found[1]), int(found[2])


def tell_of_shards(folder: Path, bars: Bars) -> int:
    """Say which splits were taken, what was decided in reading, and what is missing; return the number of missing samples."""
    from mvad.datasets.renders.record import missing_of, note_lines
    from mvad.datasets.shards.missing import missing_lines
    from mvad.datasets.shards.reader import read_manifest

    manifest = read_manifest(folder)
    splits = [f"its splits are those of {manifest['config']['splits']}"] if "splits" in manifest["config"] else []
    for note in [*splits, *note_lines(manifest)]:
        bars.tell(f"notice: {note}")
    for line in missing_lines(manifest):
        bars.tell(f"missing: {line}")
    return len(missing_of(manifest))
