"""``mvad synth``: generate a small dataset in the original file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvad.cli.options import DEFAULT_WORKSPACE, WorkspaceFolder
from mvad.pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("synth", epilog="Example: mvad synth mvtec3d --category gear --train 24 --seed 1")(synth)


def synth(
    dataset: Annotated[
        str,
        typer.Argument(
            help="mvtec3d, eyecandies, realiad, folder (like your own photographs), or another dataset of docs/sets.md."
        ),
    ],
    category: Annotated[
        list[str] | None,
        typer.Option("--category", help="gear, plate, dome; for realiad also keyed. Repeatable. Default: gear, plate and dome."),
    ] = None,
    raw: Annotated[
        Path | None, typer.Option("--raw", help="Folder of the dataset. Default: raw/DATASET in the workspace.")
    ] = None,
    workspace: WorkspaceFolder = DEFAULT_WORKSPACE,
    seed: Annotated[int, typer.Option(help="Seed of the dataset.")] = 0,
    train: Annotated[int, typer.Option(min=1, help="Training samples per category.")] = 24,
    validation: Annotated[int, typer.Option(min=0, help="Validation samples per category.")] = 10,
    good: Annotated[int, typer.Option(min=0, help="Good test samples per category.")] = 12,
    per_defect: Annotated[int, typer.Option(min=0, help="Test samples per defect.")] = 3,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Side of a scan or photograph in pixels.")] = 256,
) -> None:
    """Generate a small dataset (categories gear, plate, dome) in the original file format.

    The category keyed, which only realiad has, contains defects that no single view shows: one photograph is of another part.
    """
    from mvad.cli.console import Bars
    from mvad.datasets.synth.generate import SynthOptions, generate
    from mvad.datasets.synth.shapes import SHAPES
    from mvad.words import counted

    folder = raw or Workspace(workspace).raw(dataset)
    options = SynthOptions(seed, train, validation, good, per_defect, size)
    with Bars() as bars:
        count = generate(dataset, folder, category or list(SHAPES), options, bars)
        bars.tell(f"{counted(count, 'sample')} in {folder}")
