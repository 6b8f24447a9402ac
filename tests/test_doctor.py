"""What ``mvad doctor`` finds, without the child processes that test libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvad.model.backbones import weights
from mvad.pipeline import doctor
from mvad.pipeline.workspace import Workspace


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def _teachers(workspace: Workspace) -> dict[str, tuple[str, str]]:
    return {check.name.split()[1]: (check.state, check.text) for check in doctor._teachers(workspace, None, True)}


def test_a_teacher_without_weights_is_a_note_where_the_other_has_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _teachers(Workspace(tmp_path))
    assert found["resnet18"] == (
        "note", f"no weights; put {weights.RESNET18_FILE} into {tmp_path / 'weights'}, or name it with --teacher-weights"
    )  # fmt: skip
    assert found["efficientnet_lite0"] == ("ok", "its package is installed")
    monkeypatch.setattr(weights, "find_lite0", lambda: None)
    assert _teachers(Workspace(tmp_path))["efficientnet_lite0"][0] == "missing", "no teacher at all"


def test_a_damaged_weights_file_is_told(tmp_path: Path) -> None:
    """A training would choose it and stop there."""
    file = tmp_path / "weights" / weights.RESNET18_FILE
    file.parent.mkdir()
    file.write_bytes(b"half a download")
    state, text = _teachers(Workspace(tmp_path))["resnet18"]
    assert state == "missing"
    assert text.startswith(f"{file}: SHA-256 is ")
    assert text.endswith("not loaded, get the file again")
