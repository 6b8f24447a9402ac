"""Own organised scans: the same bytes as MVTec 3D-AD's tree in every format; predict, pack, verify and export."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import ROOT, mvad
from conftest import small_options
from imagecodecs import png_decode
from own_scans import WRITERS, convert, write_npz

from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.renders.record import read_manifest
from mvad.datasets.scan import Scan
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import Summary, render_category
from mvad.render.options import RenderOptions

SPLITS = ("train", "validation", "test")


def render(raw: Path, out: Path, dataset: str = "folder", frame: str = "object", **read: object) -> Summary:
    small = small_options()
    options = replace(small, rig=replace(small.rig, frame=frame), read=OwnScanOptions(**read))  # type: ignore[arg-type]
    return render_category(dataset, "gear", raw, out, options, SPLITS, Workers(), False, Silent())


def images(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".png", ".tiff")}


@pytest.mark.thorough(4)
@pytest.mark.parametrize(
    "form", [name if name == "npz" else pytest.param(name, marks=pytest.mark.thorough(4)) for name in WRITERS]
)
def test_every_format_gives_the_bytes_of_the_mvtec_tree(form: str, workspace: Path, tmp_path: Path) -> None:
    ending, write = WRITERS[form]
    convert(workspace / "raw" / "mvtec3d", "gear", tmp_path / "raw", ending, write)
    done = render(tmp_path / "raw", tmp_path / "out")
    assert (done.rendered, done.failed) == (14, 0)
    expected = images(workspace / "renders" / "mvtec3d" / "gear")
    assert len(expected) == 14 * 5 * 5
    assert images(tmp_path / "out" / "folder" / "gear") == expected
    manifest, theirs = (read_manifest(folder) for folder in (done.folder, workspace / "renders" / "mvtec3d" / "gear"))
    assert manifest["rig"] == theirs["rig"]
    assert manifest["audit"] == theirs["audit"]
    assert manifest["reader"] == "folder"
    assert manifest["licence"] == "not stated"
    assert "read.unit" not in theirs["config"]


def test_the_tree_of_mvtec_is_read_as_it_is(workspace: Path, tmp_path: Path) -> None:
    done = render(workspace / "raw" / "mvtec3d", tmp_path / "out", "folder-mine", licence="ours, do not pass on")
    assert images(done.folder) == images(workspace / "renders" / "mvtec3d" / "gear")
    assert read_manifest(done.folder)["licence"] == "ours, do not pass on"


def test_millimetres_are_metres_with_the_unit(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw" / "mvtec3d" / "gear", tmp_path / "raw" / "gear")
    for path in (tmp_path / "raw").rglob("*.tiff"):
        tifffile.imwrite(path, (tifffile.imread(path).astype(np.float64) * 1000).astype(np.float32), photometric="rgb")
    with pytest.raises(BadInput, match=r"metres with --unit m; give the unit of the file, --unit m, mm or um"):
        render(tmp_path / "raw", tmp_path / "other")
    done = render(tmp_path / "raw", tmp_path / "out", frame="sensor", unit="mm")
    assert (done.rendered, done.failed) == (14, 0)
    in_metres = render(workspace / "raw" / "mvtec3d", tmp_path / "metres", frame="sensor")
    ours, theirs = (images(folder) for folder in (done.folder, in_metres.folder))
    masks = [name for name in ours if "mask" in name]
    pairs = [(png_decode(ours[name]) > 0, png_decode(theirs[name]) > 0) for name in masks]
    assert sum((a & b).sum() for a, b in pairs) > 0.97 * sum((a | b).sum() for a, b in pairs) > 0  # rounded at the seventh digit
    with pytest.raises(BadInput, match=r"read.unit = mm, this run asks for um"):
        render(tmp_path / "raw", tmp_path / "out", frame="sensor", unit="um")


def test_options_of_own_scans_are_refused_for_a_published_dataset(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"read.unit is for own scans \(mvad render folder\)"):
        render(workspace / "raw" / "mvtec3d", tmp_path, "mvtec3d", unit="mm")


def write_turned(path: Path, scan: Scan) -> None:
    """Write a scan in micrometres and OpenGL's axes, without colours."""
    xyz = scan.xyz.astype(np.float64) * [1e6, -1e6, -1e6]
    more = {} if scan.gt is None else {"gt": scan.gt}
    np.savez(path, xyz=xyz, **more)


QUICK = {"render": "--size 64 --set samples=1", "train": "--set input.size=64"}
"""Added to commands of the documentation, so that they compute less."""


@pytest.mark.thorough(6)
def test_the_commands_of_the_documentation_run_on_own_scans(workspace: Path, tmp_path: Path) -> None:
    """In millimetres, which predict knows from the run's renders."""
    parts = tmp_path / "parts"
    convert(workspace / "raw" / "mvtec3d", "gear", parts, "npz", write_millimetres)
    (parts / "gear").rename(parts / "housing")
    shutil.copytree(parts / "housing" / "test" / "good", tmp_path / "new-parts")
    block, _ = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "own-scans.md").read_text(), re.S)
    assert len(block.splitlines()) == 7
    for line in block.splitlines():
        words = shlex.split(line)[1:]
        done = mvad(*words, *QUICK.get(words[0], "").split(), cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout}"
    train = ShardSet(tmp_path / "mvad-data" / "shards" / "folder-pumps" / "housing", "train")
    assert not train.is_mesh
    assert "Licence of the data: internal, not to be passed on." in (train.folder / "README.md").read_text()
    run = next((tmp_path / "mvad-data" / "runs").iterdir())
    assert list((run / "predictions").iterdir())
    checked = mvad("verify", "--raw", "raw", cwd=moved(tmp_path))
    assert checked.returncode == 0, checked.stderr + checked.stdout
    damaged = tmp_path / "raw" / "folder-pumps" / "housing" / "train" / "good" / "000.npz"
    damaged.write_bytes(damaged.read_bytes() + b"0")
    assert "000.npz: is not what it was" in "".join(mvad("verify", "--raw", "raw", cwd=tmp_path).stdout.split("\n"))


def moved(root: Path) -> Path:
    """Move the parts to where a folder of raw data has them, by dataset."""
    (root / "raw").mkdir()
    (root / "parts").rename(root / "raw" / "folder-pumps")
    return root


def write_millimetres(path: Path, scan: Scan) -> None:
    more = {} if scan.gt is None else {"gt": scan.gt}
    np.savez(path, xyz=scan.xyz.astype(np.float64) * 1000, rgb=scan.rgb, **more)


def test_grey_parts_without_colours_are_named(workspace: Path, tmp_path: Path) -> None:
    convert(workspace / "raw" / "mvtec3d", "gear", tmp_path / "raw", "npz", write_turned)
    done = render(tmp_path / "raw", tmp_path / "out", unit="um", axes="opengl")
    assert done.failed == 0
    assert any("drawn in mid grey" in note for note in done.notes)
    with pytest.raises(BadInput, match=r"negative z.*--axes opengl"):
        render(tmp_path / "raw", tmp_path / "other", unit="um")


def test_packed_scans_keep_what_is_recorded(workspace: Path, tmp_path: Path) -> None:
    convert(workspace / "raw" / "mvtec3d", "gear", tmp_path / "raw", "npz", write_npz)
    render(tmp_path / "raw", tmp_path / "out", licence="ours")
    folder = pack_renders(tmp_path / "out", "folder", "gear", tmp_path / "shards", PackOptions(), Silent()).parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["licence"] == "ours"
    assert manifest["config"]["read.kind"] == "scan"
    assert RenderOptions().recorded().keys() == {key for key in manifest["config"] if not key.startswith("read.")}
