"""A whole render job: resume, failures, refusals, equal bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import small_options

from mvad import files
from mvad.datasets.renders.record import read_manifest
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import Summary, render_category
from mvad.render.options import RenderOptions, RigOptions

SPLITS = ("train", "validation", "test")


def render(
    raw: Path,
    out: Path,
    options: RenderOptions | None = None,
    splits: Sequence[str] = SPLITS,
    jobs: int = 1,
    overwrite: bool = False,
) -> Summary:
    return render_category("mvtec3d", "gear", raw, out, options or small_options(), splits, Workers(jobs), overwrite, Silent())


def tree(folder: Path) -> dict[str, bytes]:
    skip = {".lock", "timings.jsonl"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in skip}


@pytest.fixture
def raw(workspace: Path, tmp_path: Path) -> Path:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    return tmp_path / "raw"


def test_rendering_again_does_nothing(workspace: Path, raw: Path, tmp_path: Path) -> None:
    first = render(raw, tmp_path / "out")
    before = tree(tmp_path / "out")
    second = render(raw, tmp_path / "out")
    assert (first.rendered, first.skipped) == (14, 0)
    assert (second.rendered, second.skipped) == (0, 14)
    assert tree(tmp_path / "out") == before


def test_workers_give_the_same_bytes_as_one_process(workspace: Path, raw: Path, tmp_path: Path) -> None:
    render(raw, tmp_path / "out", jobs=2)
    assert tree(tmp_path / "out" / "mvtec3d" / "gear") == tree(workspace / "renders" / "mvtec3d" / "gear")


def test_a_crash_at_any_step_ends_in_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    class CrashError(BaseException):
        pass

    for path in sorted((raw / "gear" / "test").iterdir()):
        if path.name != "dent":
            shutil.rmtree(path)
    for xyz in sorted((raw / "gear" / "train" / "good" / "xyz").iterdir())[1:]:
        xyz.unlink()
    splits = ("train", "test")
    steps: list[str] = []
    files.step_hook = steps.append
    try:
        render(raw, tmp_path / "whole", splits=splits)
        whole = tree(tmp_path / "whole")
        for number in range(0, len(steps), 3):
            count = 0

            def hook(step: str, stop: int = number) -> None:
                nonlocal count
                if count == stop:
                    raise CrashError(step)
                count += 1

            files.step_hook = hook
            out = tmp_path / f"crash{number}"
            with pytest.raises(CrashError):
                render(raw, out, splits=splits)
            files.step_hook = lambda step: None
            render(raw, out, splits=splits)
            assert tree(out) == whole, f"crash before step {number}: {steps[number]}"
    finally:
        files.step_hook = lambda step: None
    assert len(steps) > 60


def test_one_bad_scan_costs_one_scan(raw: Path, tmp_path: Path) -> None:
    bad = next((raw / "gear" / "test" / "bump" / "xyz").iterdir())
    bad.write_bytes(b"II*\0nonsense")
    done = render(raw, tmp_path / "out")
    assert (done.rendered, done.failed) == (13, 1)
    listed = [json.loads(line) for line in (done.folder / "failed.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in listed] == [f"gear/test/bump/{bad.stem}"]
    assert str(bad) in listed[0]["reason"]
    assert len(read_manifest(done.folder)["samples"]) == 13


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda o: replace(o, rig=RigOptions(size=64, tilt_deg=25)), "rig.tilt_deg"),
        (lambda o: replace(o, rig=RigOptions(size=128)), "rig.size"),
        (lambda o: replace(o, light=2), "light"),
    ],
)
def test_another_configuration_over_old_output_is_refused_by_name(raw: Path, tmp_path: Path, change, key: str) -> None:  # type: ignore[no-untyped-def]
    render(raw, tmp_path / "out", splits=("train",))
    with pytest.raises(BadInput, match=f"{key} = .*--overwrite"):
        render(raw, tmp_path / "out", change(small_options()), splits=("train",))
    render(raw, tmp_path / "out", change(small_options()), splits=("train",), overwrite=True)


def test_the_audit_adds_up(workspace: Path) -> None:
    audit = json.loads((workspace / "renders" / "mvtec3d" / "gear" / "audit.json").read_text())
    for key, sample in audit["samples"].items():
        assert sample["total"] == sample["no_point"] + sample["removed"] + sample["unseen"] + sample["seen_any"], key
    total = audit["summary"]
    assert total["samples_with_defect"] == 7
    assert total["total"] == total["no_point"] + total["removed"] + total["unseen"] + total["seen_any"]
