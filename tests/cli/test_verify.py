"""``mvad verify``: reports faults, and with --repair rebuilds damaged files only."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from training import NOWHERE, train

from mvad import files
from mvad.cli import main
from mvad.datasets.registry import RawScans
from mvad.errors import BadInput
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.missing_views import evaluate_missing_views
from mvad.model.evaluation.scan_maps import ScanEvaluator
from mvad.model.runs import RunFolder
from mvad.pipeline.repair import _check_renders
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions
from mvad.render.rig import Rig


@pytest.fixture
def ws(workspace: Path, tmp_path: Path) -> Path:
    """Return a workspace of the generated MVTec category, to be damaged."""
    for folder in ("raw", "renders", "shards"):
        shutil.copytree(workspace / folder / "mvtec3d", tmp_path / "ws" / folder / "mvtec3d")
    return tmp_path / "ws"


@pytest.fixture(scope="module")
def whole_run(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was trained and evaluated on the shards of that category."""
    place = tmp_path_factory.mktemp("whole") / "runs" / "gear"
    keys = {"input.modalities": ("rgb",), "train.head_steps": 2, "train.batch": 2, "train.keep_checkpoints": 3}
    train(place, workspace / "shards" / "mvtec3d" / "gear", **keys)
    evaluate_run(place, workspace / "shards", NOWHERE, Silent())
    return place


@pytest.fixture
def run(ws: Path, whole_run: Path) -> Path:
    """Return a copy of the trained run in the workspace, to be damaged."""
    return Path(shutil.copytree(whole_run, ws / "runs" / "gear"))


def verify(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run the command in this process; return the exit code and the output."""
    before, sys.argv = sys.argv, ["mvad", "verify", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            main.run()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    code = left.value.code
    return (0 if code is None else int(code)), captured.out + captured.err


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    skip = {".lock", "timings.jsonl"}
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in skip
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def one(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


DAMAGE: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "a view": (lambda ws: flip(one(ws / "renders", "test/*/*/normal_3.png")), "normal_3.png", 26),
    "a view is missing": (lambda ws: one(ws / "renders", "train/*/*/depth_0.png").unlink(), "depth_0.png", 26),
    "a record": (lambda ws: flip(one(ws / "renders", "record.json")), "record.json", 26),
    "a sample is missing": (lambda ws: shutil.rmtree(one(ws / "renders", "record.json").parent), "record.json", 26),
    "the manifest of renders": (lambda ws: flip(one(ws / "renders", "manifest.json")), "manifest.json", 0),
    "the audit": (lambda ws: flip(one(ws / "renders", "audit.json")), "audit.json", 0),
    "the audit is missing": (lambda ws: one(ws / "renders", "audit.json").unlink(), "audit.json", 0),
    "the rig": (lambda ws: flip(one(ws / "renders", "rig.json")), "rig.json", 0),
    "the rig is missing": (lambda ws: one(ws / "renders", "rig.json").unlink(), "rig.json", 0),
    "a shard": (lambda ws: flip(one(ws / "shards", "test-*.h5")), "test-00000.h5", 1),
    "a shard is missing": (lambda ws: one(ws / "shards", "train-*.h5").unlink(), "train-00000.h5", 1),
    "the card": (lambda ws: flip(one(ws / "shards", "README.md")), "README.md", 0),
    "the manifest of shards": (lambda ws: flip(one(ws / "shards", "manifest.json")), "manifest.json", 0),
}
"""What is damaged, the file that must be named, and how many data files may be written again at most."""


@pytest.mark.thorough(8)
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_reported_and_only_they_are_rebuilt(name: str, ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(ws)
    assert verify(capsys, "--workspace", ws)[0] == 0
    corrupted, named, most = DAMAGE[name]
    corrupted(ws)
    code, said = verify(capsys, "--workspace", ws)
    assert code == 3
    assert named in said
    assert "--repair" in said
    code, said = verify(capsys, "--workspace", ws, "--repair")
    assert code == 0, said
    after = state(ws)
    assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in before.items()}
    listings = {"manifest.json", "audit.json", "rig.json", "README.md"}
    written = [k for k in after if after[k][1] != before[k][1] and Path(k).name not in listings]
    assert len(written) <= most, written


def test_without_raw_scans_nothing_is_removed_and_the_remedy_is_given(ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(one(ws / "renders", "test/*/*/normal_3.png"))
    shutil.move(ws / "raw", ws.parent / "elsewhere")
    before = state(ws)
    code, said = verify(capsys, "--workspace", ws, "--repair")
    assert code == 3
    assert "not repaired" in said
    assert state(ws) == before
    assert verify(capsys, "--workspace", ws, "--repair", "--raw", ws.parent / "elsewhere")[0] == 0


def rendered_otherwise(ws: Path) -> None:
    """Render the category again, with other cameras."""
    options = RenderOptions(backend="cpu", rig=RigOptions(size=64, tilt_deg=20.0))
    splits = ("train", "validation", "test")
    render_category("mvtec3d", "gear", ws / "raw" / "mvtec3d", ws / "renders", options, splits, Workers(), True, Silent())


def rendered_in_part(ws: Path) -> None:
    """Leave what a job leaves that was stopped after it rendered anew the validation scans alone."""
    options = RenderOptions(backend="cpu", rig=RigOptions(size=64))
    render_category(
        "mvtec3d", "gear", ws / "raw" / "mvtec3d", ws / "renders", options, ("validation",), Workers(), True, Silent()
    )


@pytest.mark.thorough(3)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rendered_otherwise, "the renders are not those that were packed: rig.tilt_deg = 20.0, it was 30.0"),
        (rendered_in_part, "the renders are not those that were packed: gear/"),
    ],
)
def test_intact_shards_are_not_replaced_by_other_renders(
    change: Callable[[Path], None], told: str, ws: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(ws)
    flip(one(ws / "shards", "validation-*.h5"))
    before = state(ws / "shards")
    code, said = verify(capsys, "--workspace", ws, "--repair")
    assert code == 3
    assert told in said
    assert state(ws / "shards") == before


def test_renders_with_another_focal_length_are_others(ws: Path) -> None:
    """As after more training scans, of which one is larger, at the same poses and options."""
    renders, packed = ws / "renders" / "mvtec3d" / "gear", ws / "shards" / "mvtec3d" / "gear"
    _check_renders(renders, packed)
    manifest = files.read_sealed_json(renders / "manifest.json", "", "")
    rig = Rig.from_json(manifest["rig"])
    wider = dataclasses.replace(rig, intrinsics=rig.intrinsics * np.array([[0.9, 1, 1], [1, 0.9, 1], [1, 1, 1]]))
    files.write_sealed_json(renders / "manifest.json", manifest | {"rig": wider.to_json()})
    with pytest.raises(BadInput, match="the renders are not those that were packed: their cameras are others"):
        _check_renders(renders, packed)


def test_a_folder_of_another_workspace_is_not_made_from_this_one(
    ws: Path, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(one(ws / "shards", "test-*.h5"))
    before = state(ws)
    code, said = verify(capsys, ws, "--workspace", workspace, "--repair")
    assert code == 3
    assert f"it is not in the workspace {workspace}, from which it would be made again; give its --workspace" in said
    assert state(ws) == before
    assert verify(capsys, ws, "--workspace", ws, "--repair")[0] == 0


@pytest.mark.thorough(3)
def test_linked_folders_are_checked(ws: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(ws / "shards", tmp_path / "bigdisk")
    (ws / "shards").symlink_to(tmp_path / "bigdisk")
    (tmp_path / "bigdisk" / "back").symlink_to(tmp_path / "bigdisk")
    assert verify(capsys, "--workspace", ws)[0] == 0
    flip(one(tmp_path / "bigdisk" / "mvtec3d", "test-*.h5"))
    code, said = verify(capsys, "--workspace", ws)
    assert code == 3
    assert "test-00000.h5" in said
    assert verify(capsys, "--workspace", ws, "--repair")[0] == 0


@pytest.mark.thorough(3)
def test_folders_may_be_named_from_within(ws: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gear = ws / "renders" / "mvtec3d" / "gear"
    monkeypatch.chdir(gear / "test")
    assert verify(capsys, "good")[0] == 0
    flip(one(gear / "test" / "good", "normal_1.png"))
    assert verify(capsys, "good", "--workspace", ws, "--repair")[0] == 0
    monkeypatch.chdir(ws / "shards" / "mvtec3d" / "gear")
    flip(Path("test-00000.h5"))
    assert verify(capsys, ".")[0] == 3
    assert verify(capsys, ".", "--workspace", ws, "--repair")[0] == 0


@pytest.mark.thorough(3)
def test_raw_data_that_are_not_there_are_no_agreement(ws: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, "--workspace", ws, "--raw", ws / "raw" / "mvtec3d")[0] == 0, "the folder of one dataset is taken, too"
    code, said = verify(capsys, "--workspace", ws, "--raw", tmp_path)
    assert code == 3
    assert "holds no raw data of what" in said
    one(ws / "renders", "record.json").unlink()
    code, said = verify(capsys, "--workspace", ws, "--raw", ws / "raw")
    assert code == 3
    assert "1 fault" in said, "a damaged record is a fault, and the others are compared"
    assert verify(capsys, "--workspace", ws, "--raw", ws / "raw", "--repair")[0] == 0


def test_a_changed_scan_is_reported_with_raw(ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, "--workspace", ws, "--raw", ws / "raw")[0] == 0
    scan = one(ws / "raw", "test/*/rgb/*.png")
    flip(scan)
    assert verify(capsys, "--workspace", ws)[0] == 0, "scans are read with --raw only"
    code, said = verify(capsys, "--workspace", ws, "--raw", ws / "raw")
    assert code == 3
    assert f"{scan}: is not what it was when it was rendered" in said


@pytest.mark.thorough(6)
def test_a_run_is_repaired_from_its_records(run: Path, ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_run(run, ws / "shards", NOWHERE, Silent(), [0, 3])
    whole = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert verify(capsys, "--workspace", ws, "--offline")[0] == 0
    pictures = [one(run, f"{folder}/*.jpg").relative_to(run) for folder in ("maps", "maps-views-0-3")]
    for name in ("model.safetensors", "model.json", "results.json", "results-views-0-3.json", *pictures):
        flip(run / name)
        code, said = verify(capsys, "--workspace", ws, "--offline")
        assert code == 3
        assert str(name) in said
        code, said = verify(capsys, "--workspace", ws, "--repair", "--offline")
        assert code == 0, said
        if not Path(name).match("results*.json"):  # the file holds times
            assert (run / name).read_bytes() == whole[run / name], name
    last = one(run, "checkpoints/step-6.safetensors")
    flip(last)
    code, said = verify(capsys, "--workspace", ws, "--repair", "--offline")
    assert code == 0, said
    assert not last.exists()
    assert not last.with_suffix(".json").exists()
    assert one(run, "checkpoints/step-4.safetensors").exists(), "the earlier checkpoint is kept"
    frozen = one(run, "checkpoints/frozen-4.safetensors")
    flip(frozen)
    code, said = verify(capsys, "--workspace", ws, "--offline")
    assert code == 3
    assert f"{frozen.name}: is not what was written" in said
    code, said = verify(capsys, "--workspace", ws, "--repair", "--offline")
    assert code == 0, said
    left = {path.name for path in frozen.parent.iterdir()}
    assert left == {"frozen-0.safetensors", "step-2.json", "step-2.safetensors"}, "step 4 is of no use without it"


@pytest.mark.thorough(6)
def test_a_model_that_cannot_be_repaired_stays_a_fault(
    ws: Path, trained: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its shards are not there; the same holds in a folder that is not named runs."""
    for folder in (ws / "runs", ws / "others"):
        run = shutil.copytree(trained("mean_feature", "mvtec3d"), folder / "floor")
        shards = ws / "shards" / "mvtec3d" / "gear"
        shards.rename(ws / "away")
        flip(run / "model.safetensors")
        for _ in range(2):
            code, said = verify(capsys, "--workspace", ws, "--repair", "--offline")
            assert code == 3
            assert "not repaired" in said
            assert (run / "model.json").exists()
        (ws / "away").rename(shards)
        record = files.read_sealed_json(run / "config.json", "a run", "")
        files.write_sealed_json(run / "config.json", record | {"shards": {"train-00000.h5": "other"}})
        assert verify(capsys, "--workspace", ws, "--repair", "--offline")[0] == 3
        assert (run / "model.json").exists(), "made from other shards, which is found when training begins"
        if folder.name == "others":
            flip(run / "config.json")
            assert "config.json" in verify(capsys, "--workspace", ws, "--offline")[1]
        shutil.rmtree(folder)


@pytest.mark.thorough(6)
def test_maps_on_scans_are_checked_and_repaired(run: Path, ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunFolder(run).record
    scans = RawScans(record.dataset, ws / "raw" / record.dataset, record.category)
    evaluate_run(run, ws / "shards", NOWHERE, Silent(), callbacks=[ScanEvaluator(run, scans, ("max", "mean"))])
    floor = run.with_name("floor")  # a fast detector, since every subset of views is evaluated
    train(floor, ws / "shards" / "mvtec3d" / "gear", model="mean_feature")
    evaluate_run(floor, ws / "shards", NOWHERE, Silent())
    evaluate_missing_views(floor, ws / "shards", NOWHERE, Silent())
    assert verify(capsys, "--workspace", ws, "--offline")[0] == 0
    for pattern in ("scan/*.ply", "scan/*.tiff", "maps/*.png"):
        path = one(run, pattern)
        whole = path.read_bytes()
        flip(path)
        code, said = verify(capsys, "--workspace", ws, "--offline")
        assert code == 3
        assert str(path) in said
        code, said = verify(capsys, "--workspace", ws, "--repair", "--offline")
        assert code == 0, said
        assert path.read_bytes() == whole
        assert files.read_sealed_json(run / "results.json", "x", "y")["scan"]["rule"] == "max", (
            "with the rules of the earlier evaluation"
        )
    flip(floor / "missing-views.json")
    code, said = verify(capsys, "--workspace", ws, "--offline")
    assert code == 3
    assert "missing-views.json" in said


def test_contradicting_fields_are_found_although_hashes_match(ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard is edited with h5py and its new hash written to the manifest, so that all checksums are right."""
    shard = one(ws / "shards", "test-*.h5")
    with h5py.File(shard, "r+") as file:
        labels = file["view_label"][:]
        file["view_label"][:] = np.zeros_like(labels)
        file["rig/poses"][:] = file["rig/poses"][:] * 2
    manifest = files.read_sealed_json(shard.parent / "manifest.json", "a manifest", "")
    for entry in manifest["shards"]:
        entry["sha256"] = files.sha256_file(shard.parent / entry["file"])
    files.write_sealed_json(shard.parent / "manifest.json", manifest)
    code, said = verify(capsys, "--workspace", ws)
    assert code == 3
    assert "has a mask and is labelled normal; pack again" in said
    assert "rig/poses are not rigid; pack again" in said
    code, said = verify(capsys, shard.parent, "--untrusted")
    assert "has a mask and is labelled normal; pack again" in said


WRONG_PLACES = {
    "pose is not rigid": ("pose", lambda values: values * 2),
    "pose_number is -7, expected -1": ("pose_number", lambda values: values - 7),
    "source has points outside of the scan of 16 x 16": ("scan_size", lambda values: values // 10),
    "pose_fit is nan, expected 0 to 1": ("pose_fit", lambda values: values * np.nan),
    "turn_deg is ": ("turn_deg", lambda values: values + 400),
    "cut has values over 1": ("cut", lambda values: values + 2),
    "scan_size is 0 x 0": ("scan_size", lambda values: values * 0),
    "rig/range is not 0 < near < far": ("rig/range", lambda values: -values),
    "step and offset of depth do not span near to far": ("rig/range", lambda values: values * 1.001),
}


@pytest.mark.thorough(3)
@pytest.mark.parametrize("said_of_it", WRONG_PLACES)
def test_places_that_cannot_be_are_found_although_hashes_match(
    said_of_it: str, ws: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = one(ws / "shards", "validation-*.h5")
    name, change = WRONG_PLACES[said_of_it]
    with h5py.File(shard, "r+") as file:
        file[name][:] = change(file[name][:])
    manifest = files.read_sealed_json(shard.parent / "manifest.json", "a manifest", "")
    for entry in manifest["shards"]:
        entry["sha256"] = files.sha256_file(shard.parent / entry["file"])
    files.write_sealed_json(shard.parent / "manifest.json", manifest)
    for more in ((), ("--untrusted",)):
        code, said = verify(capsys, shard.parent, *more)
        assert code == 3
        assert said_of_it in said
        assert "1 fault" in said


def test_a_shard_without_manifest_and_an_unlisted_shard_are_checked(
    ws: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    alone = tmp_path / "alone.h5"
    shutil.copy(one(ws / "shards", "test-*.h5"), alone)
    assert verify(capsys, alone)[0] == 0
    shutil.copy(alone, one(ws / "shards", "test-*.h5").with_name("unlisted-00000.h5"))
    code, said = verify(capsys, ws / "shards")
    assert code == 3
    assert "unlisted-00000.h5: is not in manifest.json" in said
    with h5py.File(alone, "r+") as file:
        del file["mask"]
        file["mask"] = h5py.ExternalLink("/etc/hostname", "/x")
    code, said = verify(capsys, alone)
    assert code == 3
    assert "mask is a link" in said
    assert verify(capsys, tmp_path / "nowhere")[0] == 3


def test_a_raw_category_that_cannot_be_read_hides_no_other_fault(ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two folders of one split, and a damaged shard: both are listed, and the shard is mended."""
    (ws / "raw" / "mvtec3d" / "gear" / "training").mkdir()
    flip(one(ws / "shards", "test-*.h5"))
    code, said = verify(capsys, "--workspace", ws, "--raw", ws / "raw")
    assert code == 3
    assert "are both the split train" in said
    assert "test-" in said
    (ws / "raw" / "mvtec3d" / "gear" / "training").rmdir()
    flip(one(ws / "renders", "test/*/*/normal_3.png"))
    assert verify(capsys, "--workspace", ws, "--raw", ws / "raw" / "mvtec3d", "--repair")[0] == 0, "--raw of one dataset"
