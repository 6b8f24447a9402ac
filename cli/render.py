"""``mvad render``: raw scans to views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, Category, Config, Places, Sets, Workspace


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("render", epilog="Example: mvad render mvtec3d --views 5 --raw downloads/mvtec3d --category cable_gland")(render)


def render(
    dataset: Annotated[str, typer.Argument(help="mvtec3d or eyecandies.")],
    category: Category = None,
    raw: Annotated[
        Path | None, typer.Option("--raw", help="Folder of the categories. Default: raw/DATASET in the workspace.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    views: Annotated[int | None, typer.Option(min=1, max=32, help="Number of views V (5).")] = None,
    size: Annotated[int | None, typer.Option(min=64, max=1024, help="Side of a view in pixels (256).")] = None,
    tilt: Annotated[float | None, typer.Option(min=0, max=80, help="Tilt of views 1 to V-1, degrees (30).")] = None,
    light: Annotated[int | None, typer.Option(min=0, max=5, help="Eyecandies image number (4).")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, cpu or egl.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="train, validation, test, private; repeatable.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes; 0 chooses.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away renders of another configuration.")] = False,
    config: Config = None,
    sets: Sets = None,
) -> None:
    """Render scans into views of RGB, depth, normals, masks and source maps. Run it again to continue."""
    from mvad.cli.console import Bars
    from mvad.datasets.registry import find_categories, reader_for
    from mvad.datasets.scan import SPLITS
    from mvad.errors import BadInput, PartlyDone
    from mvad.render.job import render_category
    from mvad.render.options import RenderOptions
    from mvad.settings import parse_assignments, read_toml, resolve

    named = {"rig.views": views, "rig.size": size, "rig.tilt_deg": tilt, "light": light, "backend": backend}
    layers = [("--config", read_toml(config) if config else {})]
    layers.append(("option", {key: value for key, value in named.items() if value is not None}))
    layers.append(("--set", parse_assignments(sets or [])))
    options, _ = resolve(RenderOptions, layers)
    splits = split or ["train", "validation", "test"]
    wrong = [name for name in splits if name not in SPLITS]
    if wrong:
        raise BadInput(f"--split {wrong[0]}: choose from {', '.join(SPLITS)}")
    reader = reader_for(dataset)
    folder = raw or Places(workspace).raw(dataset)
    failed = 0
    with Bars() as bars:
        for name in category or find_categories(reader, folder):
            if name not in reader.known_categories:
                bars.say(f"notice: {name} is no category of the published {dataset}; rendering it all the same")
            done = render_category(dataset, name, folder, Places(workspace).renders, options, splits, jobs, overwrite, bars)
            failed += done.failed
            bars.say(f"{done.folder}: {done.rendered} rendered, {done.skipped} were there, {done.failed} failed")
            if done.audit["samples_with_defect"]:
                bars.say(_audit_line(done.audit))
    if failed:
        raise PartlyDone(f"{failed} scans failed; failed.jsonl in each category's folder has the list and the reasons")


def _audit_line(audit: Mapping[str, Any]) -> str:
    total = max(audit["total"], 1)
    shares = ", ".join(f"{100 * audit[name] / total:.1f} % {text}" for name, text in (
        ("seen_any", "seen in some view"), ("no_point", "without a 3-D point"), ("removed", "gone with the background"),
        ("unseen", "occluded"),
    ))  # fmt: skip
    line = f"ground truth of {audit['samples_with_defect']} samples: {shares}"
    return line + (f"; no view shows the defect of {', '.join(audit['invisible'])}" if audit["invisible"] else "")
