"""Render jobs over raw data as people have them: what was decided is recorded and told, what is missing is listed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import block_on_a_plane, small_options, wavy_scan
from PIL import Image

from mvad import files
from mvad.datasets.masks import NO_MASK, SOFT, UNMARKED
from mvad.datasets.renders.record import read_record
from mvad.datasets.scan import Scan
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.clean import NO_SUPPORT, clean, has_no_support
from mvad.render.engine import Workers
from mvad.render.job import Summary, render_category
from mvad.render.manifest import LATE, NOT_YET, STALE
from mvad.render.options import CleanOptions


@pytest.fixture
def gear(workspace: Path, tmp_path: Path) -> Path:
    """Five scans of the generated category: 2 for training, 1 good and 2 bad ones for testing, in ``raw/gear``."""
    source, target = workspace / "raw" / "mvtec3d" / "gear", tmp_path / "raw" / "gear"
    for place, number in (("train/good", 2), ("test/good", 1), ("test/hole", 1), ("test/dent", 1)):
        for kind in ("xyz", "rgb", "gt"):
            for path in sorted((source / place / kind).glob("*"))[:number]:
                (target / place / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / place / kind)
    return target


def render(gear: Path, out: Path, splits: tuple[str, ...] = ("train", "test"), overwrite: bool = False) -> Summary:
    return render_category("mvtec3d", "gear", gear.parent, out, small_options(), splits, Workers(), overwrite, Silent())


def manifest_of(done: Summary) -> dict[str, Any]:
    return files.read_sealed_json(done.folder / "manifest.json", "a manifest", "")


def tree(folder: Path) -> dict[str, bytes]:
    skip = {".lock", "timings.jsonl"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in skip}


def first(gear: Path, place: str) -> Path:
    return sorted((gear / place).iterdir())[0]


def test_whole_data_leave_neither_notes_nor_missing_scans(gear: Path, tmp_path: Path) -> None:
    done = render(gear, tmp_path / "out")
    assert done.notes == []
    assert not {"notes", "missing"} & set(manifest_of(done))
    assert not any("notes" in read_record(path.parent) for path in done.folder.rglob("record.json"))
    assert "unread_training_scans" not in files.read_json(done.folder / "rig.json")


def test_what_was_decided_is_in_the_record_the_manifest_and_the_summary(gear: Path, tmp_path: Path) -> None:
    shutil.rmtree(gear / "test" / "good" / "gt")
    (gear / "test" / "good").rename(gear / "test" / "ok")
    mask = first(gear, "test/hole/gt")
    true = np.asarray(Image.open(mask)) > 0
    Image.open(mask).save(mask, format="JPEG", quality=75)
    empty = first(gear, "test/dent/gt")
    Image.fromarray(np.zeros_like(true).astype(np.uint8)).save(empty)
    done = render(gear, tmp_path / "out")
    assert done.failed == 0
    by_key = {record["key"]: record for record in map(read_record, {path.parent for path in done.folder.rglob("record.json")})}
    ok, hole, dent = (
        f"gear/test/{name}/{first(gear, f'test/{place}/xyz').stem}"
        for name, place in (("good", "ok"), ("hole", "hole"), ("dent", "dent"))
    )
    assert by_key[ok]["notes"] == ["test/ok read as good", NO_MASK]
    assert by_key[hole]["notes"] == [SOFT]
    assert abs(by_key[hole]["audit"]["total"] - true.sum()) <= 0.05 * true.sum()
    assert by_key[dent]["notes"] == [UNMARKED]
    notes = {note["note"]: (note["samples"], note["first"]) for note in manifest_of(done)["notes"]}
    renamed = (
        "no mask of test/dent marks anything; if these scans are good, rename the folder to good and render with --overwrite"
    )
    assert notes == {"test/ok read as good": (1, ok), NO_MASK: (1, ok), SOFT: (1, hole), UNMARKED: (1, dent), renamed: (1, dent)}
    assert f"{SOFT} (1 sample, first {hole})" in done.notes
    made = pack_renders(tmp_path / "out", "mvtec3d", "gear", tmp_path / "shards", PackOptions(), Silent())
    assert files.read_json(made)["notes"] == manifest_of(done)["notes"]
    assert f"- {SOFT} (1 sample, first {hole})" in (made.parent / "README.md").read_text()


def test_renders_of_scans_that_were_renamed_or_moved_are_told(gear: Path, tmp_path: Path) -> None:
    render(gear, tmp_path / "out")
    (gear / "test" / "dent").rename(gear / "test" / "bump")
    (gear / "train" / "dent").mkdir()
    done = render(gear, tmp_path / "out")
    assert (done.rendered, done.failed) == (1, 0)
    stale = f"gear/test/dent/{first(gear, 'test/bump/xyz').stem}"
    assert done.notes == [f"{STALE} (1 sample, first {stale})"]
    assert render(gear, tmp_path / "out", overwrite=True).notes == []


def test_unreadable_training_scans_are_told_with_the_first_reason(gear: Path, tmp_path: Path) -> None:
    for path in (gear / "train" / "good" / "xyz").iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5770688\n")
    with pytest.raises(BadInput) as caught:
        render(gear, tmp_path / "out")
    folder = tmp_path / "out" / "mvtec3d" / "gear"
    message = str(caught.value)
    assert message.startswith(f"{first(gear, 'train/good/xyz')}: is a pointer of git-lfs")
    assert "the first of 2 training scans, none of which can be read" in message
    assert str(folder / "failed.jsonl") in message
    assert (folder / "failed.jsonl").read_text().count("\n") == 2


def test_a_category_without_training_scans_says_so(gear: Path, tmp_path: Path) -> None:
    shutil.rmtree(gear / "train" / "good")
    with pytest.raises(BadInput, match="fitted to training scans, and there is none; expected them in the folder train"):
        render(gear, tmp_path / "out")


def test_a_training_scan_that_comes_after_the_cameras_is_named(gear: Path, tmp_path: Path) -> None:
    """Whether it was damaged or not there: the cameras are not those of a clean run, and --overwrite makes them so."""
    whole = render(gear, tmp_path / "whole")
    xyz = first(gear, "train/good/xyz")
    key, content = f"gear/train/good/{xyz.stem}", xyz.read_bytes()
    for number, damaged in enumerate((b"II*\0nonsense", None)):
        if damaged is None:
            xyz.unlink()
        else:
            xyz.write_bytes(damaged)
        out = tmp_path / f"out{number}"
        assert LATE not in " ".join(render(gear, out).notes)
        xyz.write_bytes(content)
        done = render(gear, out)
        assert (done.rendered, done.failed) == (1, 0)
        assert done.notes == [f"{LATE} (1 sample, first {key})"]
        assert render(gear, out).notes == done.notes, "the notice stays as long as what it says"
    again = render(gear, out, overwrite=True)
    assert again.notes == []
    assert tree(again.folder) == tree(whole.folder)


def test_missing_scans_are_listed_with_why(gear: Path, tmp_path: Path) -> None:
    first(gear, "test/hole/xyz").unlink()
    bad = first(gear, "test/dent/rgb")
    bad.write_bytes(b"")
    done = render(gear, tmp_path / "out")
    why = {entry["key"].split("/")[2]: entry["why"] for entry in manifest_of(done)["missing"]}
    assert why == {"hole": "raw", "dent": "failed"}
    assert render(gear, tmp_path / "out", ("train",)).failed == 0
    assert manifest_of(done)["missing"] == manifest_of(render(gear, tmp_path / "out", ("train",)))["missing"], "they stay missing"
    shutil.copy(first(gear, "test/good/rgb"), bad)
    shutil.rmtree(gear / "test" / "hole")
    done = render(gear, tmp_path / "out")
    assert done.failed == 0
    assert "missing" not in manifest_of(done), "one was rendered, the other is gone"


def test_a_job_that_is_killed_leaves_no_manifest_of_a_finished_one(gear: Path, tmp_path: Path) -> None:
    class KillError(BaseException):
        pass

    render(gear, tmp_path / "out", ("train",))

    def hook(step: str) -> None:
        if "hole" in step or "dent" in step or "good" in step:
            raise KillError(step)

    import mvad.render.job as job

    write, job.write_manifest = job.write_manifest, lambda *arguments: (_ for _ in ()).throw(KillError)  # type: ignore[assignment]
    files.step_hook = hook
    try:
        with pytest.raises(KillError):
            render(gear, tmp_path / "out")
    finally:
        files.step_hook = lambda step: None
        job.write_manifest = write
    missing = files.read_json(tmp_path / "out" / "mvtec3d" / "gear" / "manifest.json")["missing"]
    assert [entry["reason"] for entry in missing] == [NOT_YET] * 3
    with pytest.raises(BadInput, match=r"3 of 5 scans are not rendered .*--partial"):
        pack_renders(tmp_path / "out", "mvtec3d", "gear", tmp_path / "shards", PackOptions(), Silent())


def preprocessed(xyz: np.ndarray) -> np.ndarray:
    """Return points as BTF's and M3DM's tools leave them: the support's set to zero, padded to a square, resized."""
    points = xyz.astype(np.float64)
    valid = (points != 0).all(axis=2)
    edge = np.zeros(valid.shape, bool)
    edge[:8] = edge[-8:] = True
    edge[:, :8] = edge[:, -8:] = True
    support = points[valid & edge]
    for _ in range(5):
        centre = support.mean(axis=0)
        normal = np.linalg.svd(support - centre, full_matrices=False)[2][2]
        support = support[np.abs((support - centre) @ normal) < 0.004]
    points[~valid | (np.abs((points - centre) @ normal) < 0.005)] = 0
    return points.astype(np.float32)


def test_scans_without_their_support_keep_their_object(gear: Path, tmp_path: Path) -> None:
    whole = render(gear, tmp_path / "whole")
    for xyz in gear.rglob("xyz/*.tiff"):
        tifffile.imwrite(xyz, preprocessed(tifffile.imread(xyz)), photometric="rgb")
    done = render(gear, tmp_path / "out")
    assert (done.rendered, done.failed) == (5, 0)
    assert [note for note in done.notes if note.startswith(NO_SUPPORT)] == [
        f"{NO_SUPPORT} (5 samples, first {sorted(s['key'] for s in manifest_of(done)['samples'])[0]})"
    ]
    for path in sorted(done.folder.rglob("record.json")):
        before = read_record(whole.folder / path.parent.relative_to(done.folder))["points"]["object"]
        after = read_record(path.parent)["points"]["object"]
        assert 0.75 < after / before < 1.05, "5 mm above the support went with it"


def test_which_scans_are_without_support() -> None:
    scan, block = block_on_a_plane()
    assert not has_no_support(scan.valid)
    assert clean(scan, CleanOptions()).notes == ()
    alone = clean(Scan(np.where(block[..., None], scan.xyz, np.float32(0)), block, scan.rgb), CleanOptions())
    assert alone.notes == (NO_SUPPORT,), "its box is filled as that of a whole scan is"
    assert np.array_equal(alone.keep, block)
    padded = np.zeros((200, 220), bool)
    padded[40:160, 50:170] = scan.valid
    assert not has_no_support(padded), "a whole scan with an empty margin"
    assert not has_no_support(wavy_scan().valid)
    y, x = np.mgrid[:120, :120]
    assert has_no_support(np.hypot(y - 60, x - 60) < 45)
    assert not has_no_support(np.zeros((120, 120), bool))
    holes = np.random.default_rng(0).random((120, 120)) < 0.5
    assert not has_no_support(holes), "half of the border missing, as in real scans"


def test_an_object_alone_stands_on_its_farthest_point() -> None:
    scan, _ = block_on_a_plane(0.0)
    y, x = np.mgrid[:120, :120]
    disc = np.hypot(y - 60, x - 60) < 40
    speck = np.zeros_like(disc)
    speck[2:4, 2:4] = True
    alone = Scan(np.where((disc | speck)[..., None], scan.xyz, np.float32(0)), disc | speck, scan.rgb)
    cleaned = clean(alone, CleanOptions())
    assert cleaned.notes == (NO_SUPPORT,)
    assert np.array_equal(cleaned.keep, disc)
    assert cleaned.removed.sum() == 4
    assert cleaned.plane[:3].tolist() == [0, 0, -1]
    assert cleaned.plane[3] == pytest.approx(scan.xyz[disc][:, 2].max(), abs=1e-6)


@pytest.mark.real
def test_real_scans_without_their_support_keep_their_object(real_data: Path) -> None:
    from mvad.datasets.registry import RawScans

    scans = RawScans("mvtec3d", real_data / "mvtec3d", "cable_gland")
    for ref in scans.of_split("test")[::8]:
        scan = scans.load(ref.key)
        whole = clean(scan, CleanOptions())
        assert whole.notes == ()
        xyz = preprocessed(scan.xyz)
        valid = xyz[..., 2] > 0
        alone = clean(replace(scan, xyz=xyz, valid=valid), CleanOptions())
        assert alone.notes == (NO_SUPPORT,)
        assert 0.75 < alone.keep.sum() / whole.keep.sum() < 1.1


def test_failures_are_logged_per_scan(gear: Path, tmp_path: Path) -> None:
    """Contradictions of folders and masks are met by the render, each with its key, and the others are finished."""
    shutil.copytree(gear / "test" / "hole", gear / "train" / "hole")
    shutil.copy(first(gear, "test/hole/gt"), first(gear, "test/good/gt"))
    done = render(gear, tmp_path / "out")
    lines = [json.loads(line) for line in (done.folder / "failed.jsonl").read_text().splitlines()]
    reasons = {line["key"].rsplit("/", 1)[0]: line["reason"] for line in lines}
    assert set(reasons) == {"gear/train/hole", "gear/test/good"}
    assert "taken as good parts only" in reasons["gear/train/hole"]
    assert "labelled good" in reasons["gear/test/good"]
    assert done.rendered == 4
