"""Shards without mvad: the lines of docs/shard-format.md in an environment that has h5py and hdf5plugin, or h5py alone."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import ROOT, small_options

from mvad import files
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RigOptions

BLOCKS = re.finditer(r"```python\n(.*?)```", (ROOT / "docs" / "shard-format.md").read_text(), re.S)
LINES, CAMERAS = next(BLOCKS), next(BLOCKS)


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
    statements = [line for line in LINES[1].splitlines() if line.strip() and not line.startswith("import")]
    assert len(statements) <= 5
    python = environment(tmp_path / "venv", ("numpy", "h5py", "hdf5plugin"))
    shutil.copy(workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5", tmp_path)
    assert run(python, "import mvad", tmp_path).returncode != 0
    done = run(python, LINES[1], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['view_0', 'view_1', 'view_2', 'view_3', 'view_4'] gear/test/" in done.stdout
    assert "(5, 64, 64, 3) 0." in done.stdout


@pytest.mark.parametrize(("frame", "center"), [("object", "category"), ("sensor", "category"), ("sensor", "scan")])
def test_cameras_and_rows_of_the_raw_scan_are_those_that_the_page_says(
    frame: str, center: str, workspace: Path, tmp_path: Path
) -> None:
    """Depth, cast from the cameras in the sensor's frame, meets the points of the raw scan that source names."""
    options = replace(small_options(), rig=RigOptions(size=96, frame=frame, center=center))
    raw = workspace / "raw" / "mvtec3d"
    render_category(
        "mvtec3d", "gear", raw, tmp_path / "renders", options, ("train", "test"), Workers(), False, Silent()
    )  # fmt: skip
    pack_renders(tmp_path / "renders", "mvtec3d", "gear", tmp_path / "shards", PackOptions(), Silent())
    folder = tmp_path / "shards" / "mvtec3d" / "gear"
    done = run(environment(tmp_path / "venv", ("numpy", "h5py", "hdf5plugin")), CAMERAS[1], folder)
    assert done.returncode == 0, done.stderr
    made, data = np.load(folder / "cameras.npz"), ShardSet(folder, "test", ("depth", "source"))
    batch = data.batch([0])
    assert batch.depth is not None
    _, split, defect, number = data.keys[0].split("/")
    scan = tifffile.imread(raw / "gear" / split / defect / "xyz" / f"{number}.tiff").astype(np.float64)
    intrinsics = np.array(
        files.read_sealed_json(tmp_path / "renders" / "mvtec3d" / "gear" / "rig.json", "a rig", "")["rig"]["intrinsics"]
    )
    assert (made["pose_number"], made["fit"], made["turn"]) == (data.pose_numbers[0], data.pose_fits[0], data.turns_deg[0])
    assert 0.7 < made["fit"] < 1 if frame == "object" else made["fit"] == -1
    assert np.abs(made["cameras"] - data.poses).max() > 1e-4 or (frame, center) == ("sensor", "category")
    for view in range(5):
        depth = batch.depth[0, view].numpy().astype(np.float64)
        row, column = np.nonzero(depth)
        pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))])
        points = np.linalg.inv(intrinsics[view]) @ pixels * depth[row, column]
        points = made["cameras"][view, :3, :3] @ points + made["cameras"][view, :3, 3:]
        named = scan[made["rows"][view, row, column], made["columns"][view, row, column]]
        distances = np.linalg.norm(points.T - named, axis=1)[named[:, 2] > 0]  # small holes of the scan are filled
        assert len(distances) > 500
        assert np.median(distances) < 0.0003, "under the spacing of the points"
        assert np.quantile(distances, 0.99) < 0.003


@pytest.mark.parametrize("name", ["gzip", "none"])
def test_plain_shards_need_no_plugin(name: str, workspace: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ("numpy", "h5py"))
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(filter=name), Silent())
    folder = tmp_path / "mvtec3d" / "gear"
    done = run(python, LINES[1].replace("h5py, hdf5plugin, json", "h5py, json"), folder)
    assert done.returncode == 0, done.stderr
    assert "(5, 64, 64, 3) 0." in done.stdout
    shutil.copy(workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5", folder)
    assert run(python, LINES[1].replace("h5py, hdf5plugin, json", "h5py, json"), folder).returncode != 0, "zstd needs it"
