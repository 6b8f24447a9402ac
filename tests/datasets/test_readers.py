"""Readers of the true on-disk formats, on generated and on real data."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import CATEGORY, SMALL
from PIL import Image

from mvad.datasets import realiad
from mvad.datasets.eyecandies import points_from_depth
from mvad.datasets.registry import SCAN_READERS, find_categories, licence_of, reader_for
from mvad.datasets.scan import ReadOptions, ScanRef
from mvad.errors import BadInput

OPTIONS = ReadOptions()


@pytest.mark.parametrize("dataset", [name for name in SCAN_READERS if name in CATEGORY])
def test_generated_scans_read_back(dataset: str, workspace: Path) -> None:
    reader = reader_for(dataset)
    raw = workspace / "raw" / dataset
    assert find_categories(reader, raw) == [CATEGORY[dataset]]
    refs = reader.refs(raw, CATEGORY[dataset], OPTIONS)
    assert refs == sorted(refs)
    assert len({ref.key for ref in refs}) == len(refs)
    counts = Counter(ref.split for ref in refs)
    assert counts["train"] == SMALL.train
    assert counts["validation"] == SMALL.validation
    for ref in refs:
        scan = reader.load(ref)
        assert scan.xyz.dtype == np.float32
        assert scan.xyz.shape == (*scan.valid.shape, 3) == scan.rgb.shape
        assert np.isfinite(scan.xyz).all()
        assert not scan.xyz[~scan.valid].any() or dataset == "eyecandies"
        if ref.split == "test":
            assert scan.gt is not None
            assert scan.gt.any() == (ref.defect != "good"), ref.key


@pytest.fixture
def category(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the generated MVTec category, to be damaged."""
    shutil.copytree(workspace / "raw" / "mvtec3d" / "gear", tmp_path / "gear")
    return tmp_path


def first(raw: Path) -> ScanRef:
    return next(ref for ref in reader_for("mvtec3d").refs(raw, "gear", OPTIONS) if ref.split == "test")


def damage_text(path: Path) -> None:
    path.write_text("not a picture")


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_size(path: Path) -> None:
    if path.suffix == ".tiff":
        tifffile.imwrite(path, np.ones((8, 9, 3), np.float32), photometric="rgb")
    else:
        with Image.open(path) as image:
            mode = image.mode
        Image.new(mode, (9, 8)).save(path)


def damage_type(path: Path) -> None:
    if path.suffix == ".tiff":
        tifffile.imwrite(path, np.ones((160, 160, 3), np.int32), photometric="rgb")
    else:
        Image.new("CMYK", (160, 160)).save(path, format="JPEG")


@pytest.mark.parametrize("kind", ["xyz", "rgb", "gt"])
@pytest.mark.parametrize("damage", [damage_text, damage_truncate, damage_empty, damage_missing, damage_size, damage_type])
def test_a_damaged_file_is_one_line_that_names_it(category: Path, kind: str, damage) -> None:  # type: ignore[no-untyped-def]
    ref = first(category)
    damage(ref.paths[kind])
    with pytest.raises(BadInput) as caught:
        reader_for("mvtec3d").load(ref)
    message = str(caught.value)
    assert "\n" not in message
    assert str(ref.paths[kind]) in message or (kind == "xyz" and damage is damage_size)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30, -1.0])
def test_a_scan_without_a_usable_point_is_refused(category: Path, value: float) -> None:
    ref = first(category)
    tifffile.imwrite(ref.paths["xyz"], np.full((160, 160, 3), value, np.float32), photometric="rgb")
    with pytest.raises(BadInput, match="no valid point"):
        reader_for("mvtec3d").load(ref)


def test_several_pages_are_refused(category: Path) -> None:
    ref = first(category)
    tifffile.imwrite(ref.paths["xyz"], np.ones((2, 160, 160, 3), np.float32), photometric="minisblack")
    with pytest.raises(BadInput, match=r"page|expected \(H, W, 3\)"):
        reader_for("mvtec3d").load(ref)


def test_stray_files_are_ignored_and_pairs_are_made_by_name(category: Path) -> None:
    before = reader_for("mvtec3d").refs(category, "gear", OPTIONS)
    for name in (".DS_Store", "Thumbs.db", "readme.txt", "train/good/rgb/Thumbs.db", "train/good/notes.txt"):
        (category / "gear" / name).write_text("x")
    assert reader_for("mvtec3d").refs(category, "gear", OPTIONS) == before
    for ref in before:
        assert ref.paths["rgb"].stem == ref.paths["xyz"].stem == ref.id


def test_missing_folders_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not found"):
        find_categories(reader_for("mvtec3d"), tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no"):
        find_categories(reader_for("mvtec3d"), tmp_path)
    with pytest.raises(BadInput, match="choose from"):
        reader_for("mvtec2d")


def test_eyecandies_yaml_cannot_expand_or_construct(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw" / "eyecandies" / "dome", tmp_path / "dome")
    reader = reader_for("eyecandies")
    ref = reader.refs(tmp_path, "dome", OPTIONS)[0]
    for text in ("a: &a [1]\nb: *a\n", "!!python/object/apply:os.system ['true']", "- 1", "normalization: {max: x, min: 1}"):
        ref.paths["info"].write_text(text)
        with pytest.raises(BadInput, match="info_depth"):
            reader.load(ref)


def test_realiad_reads_cameras_from_names_and_labels_per_view(workspace: Path) -> None:
    samples = realiad.refs(workspace / "raw" / "realiad", CATEGORY["realiad"])
    assert samples == sorted(samples)
    assert Counter(sample.split for sample in samples)["train"] == SMALL.train
    for sample in samples:
        assert [view.camera for view in sample.views] == ["C1", "C2", "C3", "C4", "C5"]
        for view in sample.views:
            assert view.image.exists()
            assert (view.mask is None) == (view.anomaly_class == "OK")
            assert sample.defect in ("good", view.anomaly_class) or view.anomaly_class == "OK"


def split_file(folder: Path, change) -> Path:  # type: ignore[no-untyped-def]
    entry = {"category": "c", "anomaly_class": "OK", "image_path": "OK/S0001/c_0001_OK_C1_20260101000000.jpg", "mask_path": None}
    content = {"meta": {"prefix": "c/", "normal_class": "OK", "pre_transform": False}, "train": [entry], "test": []}
    change(content, entry)
    (folder / "realiad_jsons").mkdir(exist_ok=True)
    (folder / "realiad_jsons" / "c.json").write_text(json.dumps(content))
    return folder


HOSTILE = {
    "climbs": lambda content, entry: entry.update(image_path="../../x_C1_1.jpg"),
    "absolute": lambda content, entry: entry.update(image_path="/etc/x_C1_1.jpg"),
    "twice": lambda content, entry: content["test"].append(dict(entry)),
    "no camera": lambda content, entry: entry.update(image_path="OK/S0001/c.jpg"),
    "prefix": lambda content, entry: content["meta"].update(prefix="../../"),
    "no meta": lambda content, entry: content.pop("meta"),
    "list": lambda content, entry: content.update(train={"a": 1}),
    "number": lambda content, entry: entry.update(image_path=3),
    "mask of ok": lambda content, entry: entry.update(mask_path="OK/S0001/m.png"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_split_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    split_file(tmp_path, HOSTILE[name])
    with pytest.raises(BadInput) as caught:
        realiad.refs(tmp_path, "c")
    assert "\n" not in str(caught.value)


def test_an_unknown_class_is_allowed(tmp_path: Path) -> None:
    split_file(tmp_path, lambda content, entry: entry.update(anomaly_class="XX", mask_path="OK/S0001/m.png"))
    assert realiad.refs(tmp_path, "c")[0].defect == "XX"


@pytest.mark.real
def test_real_mvtec_projection_model_reproduces_the_grid(real_data: Path) -> None:
    raw = real_data / "mvtec3d"
    camera = json.loads((raw / "cable_gland" / "calibration" / "camera_parameters.json").read_text())
    reader = reader_for("mvtec3d")
    errors = []
    for ref in reader.refs(raw, "cable_gland", OPTIONS)[::12]:
        scan = reader.load(ref)
        row, column = np.nonzero(scan.valid)
        x, y, z = scan.xyz[scan.valid].astype(np.float64).T
        u, v = camera["focus"] * x / z, camera["focus"] * y / z
        s = 2 / (1 + np.sqrt(1 - 4 * camera["kappa"] * (u**2 + v**2)))
        du, dv = s * u / camera["sx"] + camera["cx"] - column, s * v / camera["sy"] + camera["cy"] - row
        errors.append(np.hypot(du - np.median(du), dv - np.median(dv)))
        assert abs(np.median(du) + 0.407) < 0.5
        assert abs(np.median(dv) + 1.120) < 0.5
    every = np.concatenate(errors)
    assert np.percentile(every, 99.9) < 0.7, "after the constant offset"
    # Two to five of 100,000 points a scan are the sensor's own outliers, up to 3.6 px off.
    assert (every > 1.0).mean() < 1e-4


def test_generated_mvtec_projection_model_reproduces_the_grid(workspace: Path) -> None:
    raw = workspace / "raw" / "mvtec3d"
    camera = json.loads((raw / "gear" / "calibration" / "camera_parameters.json").read_text())
    scan = reader_for("mvtec3d").load(first(raw))
    row, column = np.nonzero(scan.valid)
    x, y, z = scan.xyz[scan.valid].astype(np.float64).T
    u, v = camera["focus"] * x / z, camera["focus"] * y / z
    s = 2 / (1 + np.sqrt(1 - 4 * camera["kappa"] * (u**2 + v**2)))
    assert np.abs(s * u / camera["sx"] + camera["cx"] - column).max() < 0.01
    assert np.abs(s * v / camera["sy"] + camera["cy"] - row).max() < 0.01


def normal_agreement(scan) -> np.ndarray:  # type: ignore[no-untyped-def]
    points = scan.xyz.astype(np.float64)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(down, across)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    facing = (normal * points[1:-1, 1:-1]).sum(axis=2) > 0
    normal[facing] *= -1
    return np.asarray((normal * scan.normals[1:-1, 1:-1]).sum(axis=2))


@pytest.mark.real
def test_real_eyecandies_normals_and_floor(real_data: Path) -> None:
    raw = real_data / "eyecandies"
    reader = reader_for("eyecandies")
    for ref in reader.refs(raw, "CandyCane", OPTIONS)[::15]:
        scan = reader.load(ref)
        assert np.median(normal_agreement(scan)) > 0.999
        pose = scan.pose_camera_to_world
        assert pose is not None
        world = scan.xyz.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        floor = np.abs(world[..., 2]) < 0.002
        assert floor.mean() > 0.7
        assert np.percentile(np.abs(world[floor][:, 2]), 99) < 4e-5, "a coding step of 39.6 um"
        assert np.median(np.abs(world[floor][:, 2])) < 3e-5, "half a coding step"


def test_generated_eyecandies_normals_and_floor(workspace: Path) -> None:
    reader = reader_for("eyecandies")
    scan = reader.load(reader.refs(workspace / "raw" / "eyecandies", "dome", OPTIONS)[0])
    assert np.median(normal_agreement(scan)) > 0.999


@pytest.mark.real
def test_real_eyecandies_splits_and_defects(real_data: Path) -> None:
    refs = reader_for("eyecandies").refs(real_data / "eyecandies", "CandyCane", OPTIONS)
    assert Counter(ref.split for ref in refs) == {"train": 30, "validation": 2, "test": 36, "private": 1}
    test = Counter(ref.defect for ref in refs if ref.split == "test")
    assert test == {"good": 16, "bumps": 4, "dents": 4, "colors": 4, "normals": 4, "combined": 4}


@pytest.mark.thorough(8)
@pytest.mark.real
def test_real_realiad_totals(real_data: Path) -> None:
    raw = real_data / "realiad"
    names = realiad.categories(raw)
    assert names == sorted(realiad.KNOWN_CATEGORIES)
    samples = [sample for name in names for sample in realiad.refs(raw, name)]
    bad = [s for s in samples if s.split == "test" and "NG" in s.id]
    kinds = Counter((s.split, "NG" in s.id) for s in samples)
    assert kinds == {("train", False): 7293, ("test", False): 7275, ("test", True): 15642}
    assert sum(len(s.views) for s in samples) == 151_050
    assert all(len(s.views) == 5 for s in samples)
    shown = Counter(sum(view.mask is not None for view in s.views) for s in bad)
    assert shown == {1: 3461, 2: 2702, 3: 1433, 4: 2065, 5: 5981}
    classes = Counter(view.anomaly_class for s in bad for view in s.views if view.mask is not None)
    assert classes == {"ZW": 14229, "QS": 12607, "HS": 8702, "AK": 6774, "CH": 2911, "BX": 2569, "PS": 2120, "YW": 1417}


TABLE = {
    "audiojack": (247, 763, 517, (213, 286, 245, 274, 278)),
    "bottle_cap": (246, 757, 511, (264, 323, 323, 363, 358)),
    "mint": (167, 894, 727, (450, 450, 392, 377, 430)),
    "regulator": (249, 771, 522, (66, 236, 208, 268, 302)),
    "rolled_strip_base": (249, 761, 513, (509, 506, 495, 508, 507)),
    "woodstick": (251, 750, 500, (116, 141, 243, 421, 152)),
    "zipper": (251, 750, 500, (500, 437, 499, 395, 500)),
}


@pytest.mark.real
@pytest.mark.parametrize("name", TABLE)
def test_real_realiad_counts_per_view(real_data: Path, name: str) -> None:
    train, test, bad, per_view = TABLE[name]
    samples = realiad.refs(real_data / "realiad", name)
    assert sum(s.split == "train" for s in samples) == train
    assert sum(s.split == "test" for s in samples) == test
    assert sum("NG" in s.id for s in samples) == bad
    counts = Counter(view.camera for s in samples for view in s.views if view.mask is not None)
    assert tuple(counts[f"C{k}"] for k in range(1, 6)) == per_view


def test_points_from_depth_lie_on_their_pixels() -> None:
    depth = np.full((512, 512), 3.0)
    points = points_from_depth(depth)
    assert points[256, 256, 0] == pytest.approx(0.5 * 3 / 711.11)
    assert points[0, 511, 0] == pytest.approx((511.5 - 256) * 3 / 711.11)


def test_an_unknown_dataset_is_one_line_everywhere(tmp_path: Path) -> None:
    for ask in (lambda: licence_of("mvtec2d", tmp_path), lambda: reader_for("mvtec2d")):
        with pytest.raises(BadInput, match=r"mvtec2d: did you mean mvtec3d\? choose from mvtec3d, eyecandies"):
            ask()
