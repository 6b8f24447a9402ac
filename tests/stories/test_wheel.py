"""The distribution: a wheel made from the sdist holds everything and runs away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = {
    "mvad/py.typed",
    "mvad/cli/main.py",
    "mvad/render/backends/shaders/corners.frag",
    "mvad/model/report/template.html",
    "mvad/model/report/page.js",
    "mvad/model/paper/table2_mvtec3d.csv",
}


@pytest.mark.thorough(6)
def test_the_wheel_made_from_the_sdist_is_whole_and_runs(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    wheel = next((tmp_path / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= NEEDED, NEEDED - names
    sources = {
        f"mvad/{p.relative_to(copy)}" for room in ("cli", "datasets", "model", "render") for p in (copy / room).rglob("*.py")
    }
    assert names >= sources
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, cwd=tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PYTHONPATH": str(tmp_path / "site")
    }
    command = [sys.executable, "-c", "import mvad, sys; print(mvad.__file__); from mvad.cli.main import app; app(['--help'])"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    assert str(tmp_path / "site") in run.stdout
    assert "render" in run.stdout
