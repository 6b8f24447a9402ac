"""Shards without mvad: the lines of docs/shard-format.md in an environment that has h5py and hdf5plugin, or h5py alone."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from conftest import ROOT

from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.progress import Silent

LINES = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "shard-format.md").read_text(), re.S)


def environment(place: Path, packages: tuple[str, ...]) -> Path:
    """Make a virtual environment that has some of this one's packages and nothing else; returns its Python."""
    venv.create(place, with_pip=False)
    site = next(place.glob("lib/python*/site-packages"))
    for name in packages:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        source = Path(found.origin).parent
        for folder in (source, *source.parent.glob(f"{name}.libs"), *source.parent.glob(f"{name.replace('_', '-')}-*.dist-info")):
            (site / folder.name).symlink_to(folder)
    return place / "bin" / "python"


def run(python: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, cwd=folder, timeout=120)


def test_five_lines_of_h5py_read_a_shard(workspace: Path, tmp_path: Path) -> None:
    assert LINES is not None
    statements = [line for line in LINES[1].splitlines() if line.strip() and not line.startswith("import")]
    assert len(statements) <= 5
    python = environment(tmp_path / "venv", ("numpy", "h5py", "hdf5plugin"))
    shutil.copy(workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5", tmp_path)
    assert run(python, "import mvad", tmp_path).returncode != 0
    done = run(python, LINES[1], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['view_0', 'view_1', 'view_2', 'view_3', 'view_4'] gear/test/" in done.stdout
    assert "(5, 64, 64, 3) 0." in done.stdout


@pytest.mark.parametrize("name", ["gzip", "none"])
def test_plain_shards_need_no_plugin(name: str, workspace: Path, tmp_path: Path) -> None:
    assert LINES is not None
    python = environment(tmp_path / "venv", ("numpy", "h5py"))
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(filter=name), Silent())
    folder = tmp_path / "mvtec3d" / "gear"
    done = run(python, LINES[1].replace("h5py, hdf5plugin, json", "h5py, json"), folder)
    assert done.returncode == 0, done.stderr
    assert "(5, 64, 64, 3) 0." in done.stdout
    shutil.copy(workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5", folder)
    assert run(python, LINES[1].replace("h5py, hdf5plugin, json", "h5py, json"), folder).returncode != 0, "zstd needs it"
