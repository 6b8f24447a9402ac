"""What the documents say is run: the README's commands, the demo, the format pages."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, surroundings, warm_socket
from test_own_data import put

README = (ROOT / "README.md").read_text()
QUICK = {
    "synth": "--train 3 --validation 1 --good 2 --per-defect 1 --size 96",
    "train": "--set train.student_steps=2 --set train.head_steps=1 --set train.batch=2 --set input.size=64",
}
"""Appended to a verb's options: the same commands on less work. Typer's last option wins."""


@pytest.fixture
def short_mvad(tmp_path: Path) -> Path:
    """A ``mvad`` that does less work, and asks the warm server for it instead of starting Python."""
    script = tmp_path / "bin" / "mvad"
    script.parent.mkdir()
    python = f"{sys.executable} -IS {ROOT / 'tests' / 'warm.py'} {warm_socket()} mvad.cli.main"
    cases = "\n".join(f'{verb}) shift; exec {python} {verb} "$@" {more};;' for verb, more in QUICK.items())
    script.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\n*) exec {python} "$@";;\nesac\n')
    script.chmod(0o755)
    return script


def run(command: list[str], cwd: Path, script: Path) -> subprocess.CompletedProcess[str]:
    environment = surroundings(MVAD=str(script), PATH=f"{script.parent}:{os.environ['PATH']}")
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.thorough(6)
def test_every_mvad_command_of_the_readme_runs(workspace: Path, tmp_path: Path, short_mvad: Path) -> None:
    """In an empty folder, with generated data where the README has its downloads."""
    for dataset, names in {"mvtec3d": ("gear", "cable_gland"), "eyecandies": ("dome", "CandyCane")}.items():
        shutil.copytree(workspace / "raw" / dataset / names[0], tmp_path / "downloads" / dataset / names[1])
    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "mvad-data" / "raw" / "realiad")
    for k in range(12):
        put(tmp_path / "parts/train/good" / f"p{k}", k)
    put(tmp_path / "new/a part", 60)
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    shutil.copy(next((workspace / "raw" / "realiad").rglob("*.jpg")), tmp_path / "dtd" / "images" / "a.jpg")
    ran = [line for line in commands() if line.startswith("mvad ")]
    assert len(ran) >= 8
    for line in ran:
        done = run(["bash", "-c", line], tmp_path, short_mvad)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_other_command_of_the_readme_is_a_make_target() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    others = [line for line in commands() if not line.startswith("mvad ")]
    assert others
    for line in others:
        words = shlex.split(line)
        assert words[0] in {"make", "source", "git", "cd"} or "=" in words[0], line
        if "make" in words:
            assert words[words.index("make") + 1] in targets, line


@pytest.mark.thorough(4)
def test_the_demo_runs_from_raw_scans_to_a_report(tmp_path: Path, short_mvad: Path) -> None:
    done = run(["bash", str(ROOT / "tools" / "demo.sh"), "demo"], tmp_path, short_mvad)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "report: demo/report.html" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    for model in ("idif", "patchcore", "mean_feature"):
        assert f"<td>{model}<br>" in page
    again = run(["bash", str(ROOT / "tools" / "demo.sh"), "demo"], tmp_path, short_mvad)
    assert again.returncode == 0
    assert "was trained already" in again.stdout


@pytest.mark.thorough(6)
def test_real_iad_goes_through_pack_train_and_evaluate(workspace: Path, tmp_path: Path, short_mvad: Path) -> None:
    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "mvad-data" / "raw" / "realiad")
    for line in (
        "mvad pack --dataset realiad --size 64",
        "mvad train --dataset realiad --preset demo --textures procedural --model idif --model patchcore --set input.size=64",
        "mvad evaluate",
    ):
        done = run(["bash", "-c", line], tmp_path, short_mvad)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "realiad" in done.stdout
    dry = run(["bash", "-c", "mvad pack --dataset realiad --dry-run"], tmp_path, short_mvad)
    assert rows(dry.stdout)[0] == ["realiad/plate", "train", "4", "20", "0", "0", "0", "0", "0", "0"]


@pytest.mark.thorough(6)
@pytest.mark.real
def test_the_real_realiad_index_is_listed_without_images(real_data: Path, tmp_path: Path, short_mvad: Path) -> None:
    done = run(["bash", "-c", f"mvad pack --dataset realiad --raw {real_data / 'realiad'} --dry-run"], tmp_path, short_mvad)
    assert done.returncode == 0, done.stderr
    listed = rows(done.stdout)
    assert len(listed) == 60
    assert sum(int(row[3]) for row in listed) == 151_050
    assert ["realiad/mint", "test", "894", "4470", "727", "450", "450", "392", "377", "430"] in listed


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip().startswith("realiad/")]


def test_the_format_page_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "docs.py"), "--check"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=surroundings())
    assert made.returncode == 0, made.stdout + made.stderr


def test_the_readme_is_short_and_its_pictures_exist() -> None:
    assert README.count("\n") < 250
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size < 1_500_000 for picture in pictures)
