"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mvad.pipeline.workspace import DEFAULT_WORKSPACE as DEFAULT_WORKSPACE

WorkspaceFolder = Annotated[
    Path, typer.Option("--workspace", envvar="MVAD_WORKSPACE", help="Folder for raw, renders, shards, runs, weights, textures.")
]
WorkspaceOfRun = Annotated[
    Path | None,
    typer.Option("--workspace", help="Workspace with cameras, validation samples and weights. Default: the run's workspace."),
]
Category = Annotated[list[str] | None, typer.Option("--category", help="A category; repeatable. Default: all that are found.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Set any key: --set train.batch=4. Repeatable.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with keys; command-line options take precedence.")]
TeacherWeights = Annotated[
    Path | None, typer.Option("--teacher-weights", envvar="MVAD_TEACHER_WEIGHTS", help="Path of the file resnet18-f37072fd.pth.")
]
Device = Annotated[str, typer.Option("--device", help="auto (CUDA if available), cpu, cuda or cuda:N.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="MVAD_OFFLINE", help="Do not use the network.")]
FalseAlarms = Annotated[
    float,
    typer.Option("--false-alarms", min=0.0, max=1.0, help="Largest share of normal samples that may lie above the threshold."),
]
FixedThreshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Use this threshold instead of one from the normal validation samples."),
]

JsonOut = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the result as JSON to this file, or with - to standard output, without the tables."),
]


def layers_of(config: Path | None, named: Mapping[str, Any], sets: list[str] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the layers of keys for ``settings.resolve``: the file, then named options, then ``--set``.

    Raises
    ------
    BadInput
        If the file cannot be read, or an assignment is not ``key=value``.
    """
    from mvad.settings import parse_assignments, read_toml

    options = {key: value for key, value in named.items() if value is not None}
    return [("--config", read_toml(config) if config else {}), ("option", options), ("--set", parse_assignments(sets or []))]


def refuse_without_effect(options: Mapping[str, object], when: bool, what: str) -> None:
    """Raise for the first option that was given although it has no effect there.

    Raises
    ------
    BadInput
        If ``when`` is true, and an option has a value.
    """
    from mvad.errors import BadInput

    for name, value in options.items():
        if when and value:
            raise BadInput(f"{name}: has no effect on {what}")


def parse_views(text: str) -> list[int]:
    """Return the view numbers of a text such as ``0,2,4``.

    Raises
    ------
    BadInput
        If the text is not a list of numbers.
    """
    from mvad.errors import BadInput

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--views {text}: expected view numbers with commas, such as 0,2,4") from error
