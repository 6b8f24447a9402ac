"""Shards: what goes in comes out, equal bytes, the laws between fields."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CATEGORY, SMALL, VIEW

from mvad import files
from mvad.datasets.masks import RULE
from mvad.datasets.renders.layout import category_folder
from mvad.datasets.renders.record import read_record, read_sample
from mvad.datasets.shards.chunks import FILTERS
from mvad.datasets.shards.contact_sheet import BAND, as_png, attribute_rows, contact_sheet, field_rows, sample_rows
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.shards.reader import open_shard, read_manifest
from mvad.datasets.shards.schema import Sample, contradiction, contradictions_of_rig
from mvad.errors import BadInput
from mvad.progress import Silent


@pytest.fixture
def shards(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the generated MVTec shards, to be damaged."""
    shutil.copytree(workspace / "shards" / "mvtec3d" / "gear", tmp_path / "mvtec3d" / "gear")
    return tmp_path / "mvtec3d" / "gear"


def test_a_shard_holds_what_was_rendered(workspace: Path) -> None:
    folder = category_folder(workspace / "renders", "mvtec3d", "gear")
    data = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test", ("rgb", "depth", "normal", "source"))
    assert len(data) == 9
    for index, key in enumerate(data.keys):
        place = folder / Path(key).relative_to("gear")
        sample = read_sample(place, read_record(place))
        batch = data.batch([index])
        assert np.array_equal(batch.rgb[0].numpy(), sample.rgb)
        assert np.array_equal(batch.normal[0].numpy(), sample.normal)
        assert np.array_equal(batch.source[0].numpy(), sample.source)
        assert np.array_equal(batch.mask[0].numpy(), sample.mask)
        assert np.array_equal(batch.depth[0].numpy(), sample.coding.decode(sample.depth))
        assert np.array_equal(batch.seen[0].numpy(), sample.source >= 0)
        assert bool(batch.label[0]) == (data.defects[index] != "good")
        assert np.array_equal(batch.view_label[0].numpy(), sample.mask.any(axis=(1, 2)))


def test_real_iad_labels_are_per_view(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "realiad" / CATEGORY["realiad"], "test")
    assert data.views == ["C1", "C2", "C3", "C4", "C5"]
    batch = data.batch(range(len(data)))
    assert batch.depth is None
    assert bool((batch.mask.flatten(2).any(dim=2) == batch.view_label).all())
    assert bool((batch.view_label.any(dim=1) == batch.label).all())
    assert bool(batch.seen.all()), "a photograph has no empty pixel"
    assert len(ShardSet(data.folder, "train")) == SMALL.train
    assert batch.size == VIEW
    assert read_manifest(data.folder)["config"]["mask_rule"] == RULE


@pytest.mark.parametrize("jobs", [1, 3])
def test_equal_inputs_give_equal_bytes_for_any_number_of_jobs(jobs: int, workspace: Path, tmp_path: Path) -> None:
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(), Silent(), jobs)
    compared = 0
    for path in (workspace / "shards" / "mvtec3d" / "gear").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "mvtec3d" / "gear" / path.name).read_bytes(), path.name
        compared += 1
    assert compared == 6, "three shards, a card, a manifest, the lock"


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_and_any_split_into_files_reads_back_the_same(name: str, workspace: Path, tmp_path: Path) -> None:
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(filter=name, shard_mb=0.9), Silent(), 2)
    ours = ShardSet(tmp_path / "mvtec3d" / "gear", "test")
    theirs = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    assert len(ours.sha256) == 3
    assert ours.keys == theirs.keys == sorted(theirs.keys)
    every = range(len(ours))
    assert bool((ours.batch(every).rgb == theirs.batch(every).rgb).all())
    assert bool((ours.batch(every).depth == theirs.batch(every).depth).all())


def test_fields_that_are_not_wanted_are_not_stored(workspace: Path, tmp_path: Path) -> None:
    pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(fields=("depth",)), Silent())
    data = ShardSet(tmp_path / "mvtec3d" / "gear", "test")
    assert data.stored == ["depth"]
    assert data.batch([0]).rgb is None
    whole = ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test")
    assert bool((data.batch([3]).depth == whole.batch([3]).depth).all())
    with pytest.raises(BadInput, match="has no rgb; choose from depth"):
        data.select(["rgb"])
    with pytest.raises(BadInput, match="--fields source: choose from"):
        pack_renders(workspace / "renders", "mvtec3d", "gear", tmp_path, PackOptions(fields=("source",)), Silent())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"filter": "lz4"}, "filter = zstd, this run asks for lz4"),
        ({"level": 4}, "level = none, this run asks for 4"),
        ({"shard_mb": 1.0}, "shard_mb = 512"),
    ],
)
def test_another_packing_over_old_shards_is_refused_by_name(shards: Path, workspace: Path, change, key: str) -> None:  # type: ignore[no-untyped-def]
    options = replace(PackOptions(), **change)
    with pytest.raises(BadInput, match=f"{key}.*--overwrite"):
        pack_renders(workspace / "renders", "mvtec3d", "gear", shards.parents[1], options, Silent())
    pack_renders(workspace / "renders", "mvtec3d", "gear", shards.parents[1], options, Silent(), overwrite=True)
    assert len(ShardSet(shards, "test")) == 9


def test_other_renders_over_old_shards_are_refused_by_name(shards: Path, workspace: Path, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    manifest["config"]["rig.tilt_deg"] = 12.0
    files.write_sealed_json(shards / "manifest.json", manifest)
    with pytest.raises(BadInput, match=r"rig\.tilt_deg = 12\.0, this run asks for 30"):
        pack_renders(workspace / "renders", "mvtec3d", "gear", shards.parents[1], PackOptions(), Silent())


def test_packing_again_reads_no_image(shards: Path, workspace: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in shards.glob("*.*")}
    renders = tmp_path / "renders" / "mvtec3d" / "gear"
    for path in sorted((workspace / "renders" / "mvtec3d" / "gear").rglob("*.json")):
        target = renders / path.relative_to(workspace / "renders" / "mvtec3d" / "gear")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    pack_renders(tmp_path / "renders", "mvtec3d", "gear", shards.parents[1], PackOptions(), Silent())
    assert {path.name: path.read_bytes() for path in shards.glob("*.*")} == before


def test_a_render_that_was_made_anew_is_packed_anew(workspace: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "renders" / "mvtec3d" / "gear", tmp_path / "renders" / "mvtec3d" / "gear")
    folder = tmp_path / "renders" / "mvtec3d" / "gear"
    record = next((folder / "validation").rglob("record.json"))
    content = files.read_sealed_json(record, "a record", "")
    files.write_sealed_json(record, content | {"mvad_version": "another"})
    manifest = files.read_sealed_json(folder / "manifest.json", "a manifest", "")
    for sample in manifest["samples"]:
        if sample["split"] == "validation":
            sample["record_sha256"] = files.sha256_file(record)
    files.write_sealed_json(folder / "manifest.json", manifest)
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.h5")}
    pack_renders(tmp_path / "renders", "mvtec3d", "gear", shards.parents[1], PackOptions(), Silent())
    after = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.h5")}
    assert [name for name in before if before[name] != after[name]] == ["validation-00000.h5"]


def test_a_mask_of_another_shape_than_its_photograph_is_refused(workspace: Path, tmp_path: Path) -> None:
    import imagecodecs

    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "raw")
    mask = sorted((tmp_path / "raw").rglob("NG/**/*.png"))[0]
    image = imagecodecs.png_decode(mask.read_bytes())
    mask.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image[:-8])))
    made = pack_realiad(tmp_path / "raw", "plate", tmp_path / "shards", PackOptions(size=VIEW), Silent())
    (missing,) = read_manifest(made.parent)["missing"]
    assert re.search(f"{mask.name}.*the files of this scan do not belong together", missing["reason"])


def lawful() -> Sample:
    """Two views, the second missing, the first with a defect."""
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[0, 1, 1] = 1
    seen = np.zeros((2, 4, 4), np.uint8)
    seen[0, :2] = 1
    flags = np.array([1, 0], np.uint8)
    source = np.where(seen > 0, 7, -1).astype(np.int32)
    return Sample(
        "c/test/cut/1",
        "cut",
        1,
        mask,
        flags,
        flags,
        np.repeat(seen[..., None], 3, axis=-1),
        seen.astype(np.uint16),
        None,
        seen,
        source,
        pose=np.eye(4),
        pose_number=0,
        pose_fit=0.9,
        turn_deg=12.5,
        cut=np.array([1, 0], np.uint8),
        scan_size=np.array([2, 4], np.int32),
    )


def turned(change: np.ndarray, last: tuple[float, ...] = (0, 0, 0, 1)) -> np.ndarray:
    """A pose with this upper left part and last row."""
    pose = np.eye(4)
    pose[:3, :3], pose[3] = change, last
    return pose


BROKEN = {
    "view 0 has a mask and is labelled normal": {"view_label": np.zeros(2, np.uint8)},
    "view 1 is labelled and does not exist": {"view_label": np.ones(2, np.uint8)},
    "view 0 is labelled and the sample is not": {"label": 0, "defect": "good"},
    "the sample is labelled and its defect is good": {"defect": "good"},
    "label is neither": {"label": 2},
    "mask has values over 1": {"mask": lawful().mask * 255},
    "present has values over 1": {"present": np.array([2, 0], np.uint8)},
    "source and seen disagree": {"seen": np.zeros((2, 4, 4), np.uint8)},
    "depth and seen disagree": {"depth": np.zeros((2, 4, 4), np.uint16)},
    "rgb is not empty in a view that does not exist": {"rgb": np.ones((2, 4, 4, 3), np.uint8)},
    "pose_number is -2, expected -1 to 32767": {"pose_number": -2},
    "pose_number is 32768": {"pose_number": 32768},
    "pose_fit is nan, expected 0 to 1, or -1": {"pose_fit": float("nan")},
    "pose_fit is 1.0001, expected 0 to 1": {"pose_fit": 1.0001},
    "pose_fit is -0.5, expected 0 to 1": {"pose_fit": -0.5},
    "turn_deg is 180.5, expected -180 to 180": {"turn_deg": 180.5},
    "turn_deg is nan": {"turn_deg": float("nan")},
    "cut has values over 1": {"cut": np.array([2, 0], np.uint8)},
    "cut is not empty in a view that does not exist": {"cut": np.array([0, 1], np.uint8)},
    "scan_size is 0 x 4": {"scan_size": np.array([0, 4], np.int32)},
    "scan_size is 8193 x 1, expected 1 to 8192": {"scan_size": np.array([8193, 1], np.int32)},
    "source has points outside of the scan of 1 x 7": {"scan_size": np.array([1, 7], np.int32)},
    "source has points outside of the scan of 2 x 4": {"source": np.where(lawful().seen > 0, 7, -2).astype(np.int32)},
}
NOT_RIGID = {
    "larger": turned(2 * np.eye(3)),
    "sheared": turned(np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])),
    "not finite": turned(np.eye(3)) + np.array([0, 0, 0, np.nan]),
    "infinite": turned(np.full((3, 3), np.inf)),
    "huge": turned(np.full((3, 3), 1e300)),
    "projective": turned(np.eye(3), (0, 0, 1e-9, 1)),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_sample_that_contradicts_itself_is_told(law: str) -> None:
    assert contradiction(lawful()) == ""
    assert law in contradiction(replace(lawful(), **BROKEN[law]))


@pytest.mark.parametrize("how", NOT_RIGID)
def test_a_pose_that_is_not_rigid_is_told(how: str) -> None:
    assert contradiction(replace(lawful(), pose=NOT_RIGID[how])) == "pose is not rigid"


def test_an_object_may_be_turned_and_mirrored_and_fit_no_pose_but_a_camera_is_never_mirrored() -> None:
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    mirrored = turned(turn * [1, 1, -1])
    assert np.linalg.det(mirrored) < 0
    for pose in (turned(turn), mirrored):
        assert contradiction(replace(lawful(), pose=pose, pose_number=-1, pose_fit=-1.0)) == ""
    intrinsics, near_far_radius = np.array([[[50, 0, 8], [0, 50, 8], [0, 0, 1.0]]]), np.array([0.5, 0.7, 0.06])
    assert contradictions_of_rig(turned(turn)[None], intrinsics, near_far_radius) == []
    assert contradictions_of_rig(mirrored[None], intrinsics, near_far_radius) == ["rig/poses are not rigid"]
    assert contradictions_of_rig(turned(turn)[None], -intrinsics, near_far_radius) == ["rig/intrinsics have no focal length"]
    for wrong in ([0.7, 0.5, 0.06], [0, 0.5, 0.06], [0.5, 0.7, 0], [0.5, np.inf, 0.06], [0.5, 0.7, np.nan]):
        assert contradictions_of_rig(turned(turn)[None], intrinsics, np.array(wrong)) == [
            "rig/range is not 0 < near < far and a radius over 0"
        ]


def rerecorded(workspace: Path, tmp_path: Path, split: str, **changes: object) -> Path:
    """Return a copy of the generated renders in which the record of the first sample of a split says something else."""
    shutil.copytree(workspace / "renders" / "mvtec3d" / "gear", tmp_path / "renders" / "mvtec3d" / "gear")
    folder = tmp_path / "renders" / "mvtec3d" / "gear"
    manifest = files.read_sealed_json(folder / "manifest.json", "a manifest", "")
    entry = next(sample for sample in manifest["samples"] if sample["split"] == split)
    record = folder / entry["split"] / entry["defect"] / entry["id"] / "record.json"
    files.write_sealed_json(record, files.read_sealed_json(record, "a record", "") | changes)
    entry["record_sha256"] = files.sha256_file(record)
    files.write_sealed_json(folder / "manifest.json", manifest)
    return tmp_path / "renders"


def test_where_objects_lay_comes_out_as_it_was_recorded(workspace: Path, tmp_path: Path) -> None:
    folder = category_folder(workspace / "renders", "mvtec3d", "gear")
    rig = files.read_sealed_json(folder / "rig.json", "a rig", "")["rig"]
    pose = turned(np.array([[0, -1, 0], [1, 0, 0], [0, 0, -1.0]]))
    pose[:3, 3] = 0.01, -0.02, 0.03
    said = {"pose_fit": None, "turn_deg": -61.25, "cut": [1, 3], "pose_number": 2, "scan_size": [170, 160]}
    renders = rerecorded(workspace, tmp_path, "test", pose=pose.tolist(), **said)
    pack_renders(renders, "mvtec3d", "gear", tmp_path, PackOptions(), Silent())
    data = ShardSet(tmp_path / "mvtec3d" / "gear", "test")
    assert data.rig_range == (rig["near_m"], rig["far_m"], rig["radius_m"])
    records = [read_record(folder / "test" / key.split("/")[2] / key.split("/")[3]) for key in data.keys]
    assert np.array_equal(data.object_poses, [pose, *(record["pose"] for record in records[1:])])
    assert data.object_poses.dtype == np.float64
    assert data.pose_numbers.tolist() == [2, *[0] * 8]
    assert data.pose_fits.tolist() == [-1.0, *(record["pose_fit"] for record in records[1:])]
    assert 0.7 < data.pose_fits[1:].min() < data.pose_fits.max() < 1
    assert data.turns_deg.tolist() == [-61.25, *(record["turn_deg"] for record in records[1:])]
    assert data.cut.tolist() == [[0, 1, 0, 1, 0], *([int(view in r["cut"]) for view in range(5)] for r in records[1:])]
    assert data.scan_sizes.tolist() == [[170, 160], *[[160, 160]] * 8]
    shard = open_shard(tmp_path / "mvtec3d" / "gear" / "test-00000.h5")
    sample = shard.sample(0)
    assert np.array_equal(sample.pose, pose)
    assert (sample.pose_number, sample.scan_size.tolist()) == (2, [170, 160])
    assert (sample.pose_fit, sample.turn_deg, sample.cut.tolist()) == (-1.0, -61.25, [0, 1, 0, 1, 0])
    shown = dict(attribute_rows(shard))
    assert shown["pose numbers"] == "0: 8, 2: 1"
    fits = data.pose_fits[1:]
    assert shown["fit to the pose's template"] == f"least {fits.min():.4f}, median {np.median(fits):.4f}"
    assert shown["cut off in a view"] == "1 of 9 samples"
    assert shown["scan sizes"] == "160 x 160, 170 x 160"
    assert shown["near, far, radius"].startswith(f"{rig['near_m']:.6g}, {rig['far_m']:.6g}, ")
    card = (tmp_path / "mvtec3d" / "gear" / "README.md").read_text()
    assert "Scans by the number of their pose (-1: fits none): 0: 13, 2: 1." in card
    assert f"the objects' radius is {rig['radius_m']:.4f} m" in card
    assert "number of their pose" not in (workspace / "shards" / "mvtec3d" / "gear" / "README.md").read_text()


def test_photographs_lay_nowhere(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / "realiad" / "plate", "test")
    assert (data.rig_range, data.object_poses, data.pose_numbers, data.scan_sizes) == (None, None, None, None)
    assert (data.pose_fits, data.turns_deg, data.cut) == (None, None, None)
    sample = open_shard(next(data.folder.glob("test-*.h5"))).sample(0)
    assert (sample.pose, sample.pose_number, sample.scan_size) == (None, None, None)
    assert (sample.pose_fit, sample.turn_deg, sample.cut) == (None, None, None)
    assert "radius" not in (data.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pose": np.diag([2.0, 1, 1, 1]).tolist()}, "pose is not rigid; render it again"),
        ({"pose": [[1.0, 0], [0, 1]]}, r"record.json: expected pose.*\(2, 2\).*render again with --overwrite"),
        ({"pose": "here"}, "record.json: expected pose"),
        ({"pose_number": -2}, "pose_number is -2"),
        ({"pose_number": 10**6}, "pose_number is 1000000"),
        ({"pose_number": 1.5}, "record.json: expected pose, pose_number"),
        ({"scan_size": [4, 4]}, "source has points outside of the scan of 4 x 4"),
        ({"scan_size": [10**12, 4]}, "record.json: expected pose, pose_number, pose_fit, turn_deg, cut, scan_size"),
        ({"pose_fit": 1.5}, "pose_fit is 1.5, expected 0 to 1"),
        ({"pose_fit": "good"}, "record.json: expected pose, pose_number, pose_fit"),
        ({"turn_deg": None}, "record.json: expected pose, pose_number, pose_fit, turn_deg"),
        ({"turn_deg": -200}, "turn_deg is -200.0, expected -180 to 180"),
        ({"cut": [5]}, r"record.json: expected .*\(cut \[5\] of 5 views\)"),
        ({"cut": 3}, "record.json: expected pose"),
    ],
)
def test_a_record_that_says_what_cannot_be_is_not_packed(
    workspace: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    renders = rerecorded(workspace, tmp_path, "validation", **changes)
    with pytest.raises(BadInput, match=message) as caught:
        pack_renders(renders, "mvtec3d", "gear", tmp_path, PackOptions(), Silent())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["near_m", "radius_m"])
def test_renders_whose_rig_has_no_range_are_not_packed(workspace: Path, tmp_path: Path, name: str) -> None:
    renders = rerecorded(workspace, tmp_path, "validation")
    path = renders / "mvtec3d" / "gear" / "manifest.json"
    manifest = files.read_sealed_json(path, "a manifest", "")
    del manifest["rig"][name]
    files.write_sealed_json(path, manifest)
    with pytest.raises(BadInput, match=r"manifest\.json.*render again with --overwrite"):
        pack_renders(renders, "mvtec3d", "gear", tmp_path, PackOptions(), Silent())


def test_inspect_describes_and_draws(workspace: Path) -> None:
    shard = open_shard(workspace / "shards" / "mvtec3d" / "gear" / "test-00000.h5")
    assert shard.verified
    rows = {row[0]: row for row in field_rows(shard)}
    assert rows["depth"][1:4] == ("9 x 5 x 64 x 64", "uint16", "zstd")
    assert "[metre]" in rows["depth"][5]
    assert dict(attribute_rows(shard))["licence"] == "generated by mvad, Apache-2.0"
    counts = {row[0]: row[1] for row in sample_rows(shard)}
    assert counts["good"] == "2"
    assert sum(map(int, counts.values())) == 9
    sheet = contact_sheet(shard, 3)
    assert sheet.shape == (BAND + 3 * (BAND + VIEW), 7 * VIEW, 3)
    assert as_png(sheet).startswith(b"\x89PNG")
    reds = (sheet[..., 0].astype(int) - sheet[..., 1]) > 100
    assert reds[-VIEW:, : 5 * VIEW].any(), "the last sample has a defect"
    for top in (0, BAND, 2 * BAND + VIEW):
        assert sheet[top : top + BAND].min() < 80, "captions are written above the columns and above each sample"


def test_the_card_says_what_there_is(workspace: Path) -> None:
    folder = workspace / "shards" / "mvtec3d" / "gear"
    text = (folder / "README.md").read_text()
    manifest = read_manifest(folder)
    for entry in manifest["shards"]:
        assert entry["sha256"] in text
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]
        assert sum(field["bytes"] for field in entry["fields"].values()) < entry["bytes"]
    assert "Licence of the data: generated by mvad" in text
    assert f"{manifest['audit']['total']} pixels in 7 samples" in text
    assert '"filter": "zstd"' in text
