"""``mvad render``: render raw scans to views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Config, Sets, WorkspaceFolder, layers_of
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("render", epilog="Example: mvad render mvtec3d --views 5 --raw downloads/mvtec3d --category cable_gland")(render)


def render(  # more than 60 lines: one parameter per option
    dataset: Annotated[
        str, typer.Argument(help="mvtec3d, eyecandies, 3dadam, realiadd3, or folder for your own scans and meshes.")
    ],
    category: Category = None,
    raw: Annotated[
        Path | None, typer.Option("--raw", help="Folder with the categories. Default: raw/DATASET in the workspace.")
    ] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    views: Annotated[int | None, typer.Option(min=1, max=36, help="Number of views V (default: 5).")] = None,
    size: Annotated[int | None, typer.Option(min=16, max=4096, help="Side of a view in pixels (default: 256).")] = None,
    tilt: Annotated[float | None, typer.Option(min=0, max=89, help="Tilt of views 1 to V-1 in degrees (default: 30).")] = None,
    light: Annotated[
        int | None, typer.Option(min=0, max=5, help="Eyecandies: number of the image for colours (default: 4).")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="object (default: cameras turn with each object) or sensor (cameras stay fixed).")
    ] = None,
    center: Annotated[
        str | None,
        typer.Option(help="With --frame sensor: category (one fixed rig) or scan (the rig is shifted to each object)."),
    ] = None,
    rig: Annotated[Path | None, typer.Option("--rig", help="TOML file that defines the cameras; see docs/rigs.md.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, cpu or egl.")] = None,
    device: Annotated[
        int | None, typer.Option(min=0, help="Number of the EGL device; mvad doctor lists them. Default: all GPUs in turn.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Your own scans: unit of the coordinates: m (default), mm or um.")] = None,
    grid: Annotated[
        str | None, typer.Option(help="Your own scans: WIDTHxHEIGHT of organised points, for files that do not state it.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Your own scans: camera (default: y down, z away from the sensor) or opengl (y up, z towards it)."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Your own scans: their licence, in your words. Default: not stated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Your own scans: the dataset is then called folder-NAME. Default: folder.")] = "",
    split: Annotated[
        list[str] | None, typer.Option(help="Split to render: train, validation, test or private; repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Number of worker processes; 0: automatic.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Number of scans that each process renders at the same time.")] = 1,
    scheduler: Annotated[
        str, typer.Option(help="Address of a running Dask scheduler, tcp://host:port; see docs/cluster.md.")
    ] = "",
    recycle: Annotated[int, typer.Option(min=1, help="Number of scans after which a local worker process is replaced.")] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace renders of another configuration.")] = False,
    config: Config = None,
    sets: Sets = None,
) -> None:
    """Render scans or meshes into views of RGB, depth, normals, masks and source maps. Repeat the command to continue.

    For your own scans and meshes: mvad render folder --raw parts --unit mm. docs/own-scans.md describes layout and formats.
    """
    from mvad.cli.console import Bars
    from mvad.cli.tables import audit_tables, invisible_lines, pose_lines, pose_table
    from mvad.datasets.own.options import READER
    from mvad.datasets.registry import chosen_categories, own_name, reader_for
    from mvad.datasets.scan import SPLITS
    from mvad.errors import BadInput, PartlyDone
    from mvad.render.engine import Workers
    from mvad.render.job import render_categories
    from mvad.render.options import RenderOptions
    from mvad.render.rig import Rig
    from mvad.settings import resolve
    from mvad.words import counted, no_such

    named = {
        "rig.views": views, "rig.size": size, "rig.tilt_deg": tilt, "rig.frame": frame, "rig.center": center, "light": light, "backend": backend,
        "device": device, "read.unit": unit, "read.grid": grid, "read.axes": axes, "read.licence": licence,
    }  # fmt: skip
    layers = layers_of(config, named, sets)
    options, _ = resolve(RenderOptions, layers)
    if rig is not None and any({"rig.views", "rig.size", "rig.tilt_deg"} & keys.keys() for _, keys in layers):
        raise BadInput(
            "--rig defines views, size and tilt; leave out --views, --size and --tilt, and the keys rig.views, ... of --set and --config"
        )
    if rig is not None and frame == "object":
        raise BadInput("--rig defines cameras in the sensor's frame; leave out --frame object")
    cameras = Rig.from_toml(rig) if rig is not None else None
    splits = split or ["train", "validation", "test"]
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise no_such("--split", unknown[0], SPLITS)
    if name and dataset != READER:
        raise BadInput(f"--name is for own scans (mvad render {READER}), {dataset} has its name; leave it out")
    dataset = own_name(name) if dataset == READER else dataset
    reader = reader_for(dataset)
    folder = raw or Workspace(workspace).raw(dataset)
    failed = 0
    with Bars() as bars:
        names = chosen_categories(reader, folder, category)
        for found in names if reader.known_categories else ():
            if found not in reader.known_categories:
                bars.say(f"notice: {found} is not a published category of {dataset}; it is rendered nevertheless")
        renders, workers = Workspace(workspace).renders, Workers(jobs, threads, scheduler, recycle)
        audits, poses = {}, {}
        for done in render_categories(dataset, names, folder, renders, options, splits, workers, overwrite, bars, cameras):
            failed += done.failed
            audits[done.category], poses[done.category] = done.audit, done.poses
            bars.tell(f"{done.folder}: {done.rendered} rendered, {done.skipped} were there, {done.failed} failed")
            for line in [*(f"notice: {note}" for note in done.notes), *pose_lines(done.poses), *invisible_lines(done.audit)]:
                bars.tell(line)
        for table in [*audit_tables(audits), *pose_table(poses)]:
            bars.show(table)
    if failed:
        raise PartlyDone(f"{counted(failed, 'scan')} failed; failed.jsonl in each category's folder has the list and the reasons")
