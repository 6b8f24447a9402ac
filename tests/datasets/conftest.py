"""Raw data of the published sets of photographs, generated once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.synth.generate import GENERATED, SynthOptions, generate
from mvad.progress import Silent

SMALL = SynthOptions(seed=3, train=5, validation=2, good=2, per_defect=1, size=64)


@pytest.fixture(scope="session")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the generated raw data of every set."""
    root = tmp_path_factory.mktemp("sets")
    for name in photograph_sets():
        generate(name, root / name, ["gear"], SMALL, Silent())
    return root


@pytest.fixture
def copied(raws: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies a set's raw data without the mark of generated data, to be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(raws / name, tmp_path / "raw" / name)
        (tmp_path / "raw" / name / GENERATED).unlink()
        (tmp_path / "raw" / name / "generated.jsonl").unlink()
        return tmp_path / "raw" / name

    return copy
