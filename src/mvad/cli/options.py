"""Options that several verbs share, written once, and where a workspace keeps things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Workspace = Annotated[
    Path, typer.Option("--workspace", envvar="MVAD_WORKSPACE", help="Folder for raw, renders, shards, runs, weights, textures.")
]
Category = Annotated[list[str] | None, typer.Option("--category", help="A category; repeat for more. Default: all found.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Set any key: --set train.batch=4. Repeatable.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of keys; the command line wins over it.")]
TeacherWeights = Annotated[
    Path | None, typer.Option("--teacher-weights", envvar="MVAD_TEACHER_WEIGHTS", help="The file resnet18-f37072fd.pth.")
]
Offline = Annotated[bool, typer.Option("--offline", envvar="MVAD_OFFLINE", help="Never ask the network.")]
DEFAULT_WORKSPACE = Path("mvad-data")


@dataclass(frozen=True)
class Places:
    """The folders of a workspace."""

    root: Path

    def raw(self, dataset: str) -> Path:
        """Return where a dataset's download is expected."""
        return self.root / "raw" / dataset

    @property
    def renders(self) -> Path:
        """Rendered scans."""
        return self.root / "renders"

    @property
    def shards(self) -> Path:
        """Packed samples."""
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        """Trained detectors."""
        return self.root / "runs"

    @property
    def weights(self) -> Path:
        """Teacher weights."""
        return self.root / "weights"

    @property
    def textures(self) -> Path:
        """DTD's images."""
        return self.root / "textures" / "dtd" / "images"


def packed_categories(shards: Path, datasets: list[str] | None, categories: list[str] | None) -> list[Path]:
    """Return the folders of packed categories that were asked for, or all.

    Raises
    ------
    BadInput
        If there is none, or one that was named is missing.
    """
    from mvad.errors import BadInput

    found = sorted(path.parent for path in shards.glob("*/*/manifest.json"))
    chosen = [
        folder
        for folder in found
        if (not datasets or folder.parent.name in datasets) and (not categories or folder.name in categories)
    ]
    missing = set(categories or []) - {folder.name for folder in chosen}
    if missing or not chosen:
        wanted = ", ".join(sorted(missing)) or "any category"
        raise BadInput(f"{shards}: {wanted} is not packed; run mvad pack first, or give --workspace")
    return chosen


def layers_of(config: Path | None, named: Mapping[str, Any], sets: list[str] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what the command line says of keys, for ``settings.resolve``: the file, then named options, then ``--set``.

    Raises
    ------
    BadInput
        If the file cannot be read, or an assignment is none.
    """
    from mvad.settings import parse_assignments, read_toml

    options = {key: value for key, value in named.items() if value is not None}
    return [("--config", read_toml(config) if config else {}), ("option", options), ("--set", parse_assignments(sets or []))]


def parse_views(text: str) -> list[int]:
    """Read ``0,2,4``.

    Raises
    ------
    BadInput
        If it is not a list of numbers.
    """
    from mvad.errors import BadInput

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--views {text}: expected view numbers with commas, such as 0,2,4") from error
