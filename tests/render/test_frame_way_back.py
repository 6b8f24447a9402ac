"""The way back from views in the object's frame to the raw scan, plain and mirrored, along the support's normal and the sensor's axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import small_options

from mvad import files
from mvad.datasets.export import export, source_of
from mvad.datasets.exported import read_table
from mvad.datasets.registry import RawScans
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.synth import shapes
from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import TrainedOn, evaluate_split
from mvad.model.evaluation.scan_maps import ScanEvaluator
from mvad.model.exchange.imported_maps import evaluate_imported_maps, evaluate_scan_maps
from mvad.model.runs import RunRecord
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RigOptions

HOOK = Path("mvtec3d") / "hook"
OPTIONS = SynthOptions(seed=5, train=8, validation=0, good=4, per_defect=1, size=160)
CASES = [(axis, mirrored) for axis in ("support", "sensor") for mirrored in (False, True)]


def hook(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Height of a plate that hooks to one side: no turn about an axis that it stands on makes it its mirror image."""
    arm = shapes._box(x + 0.008, y, 0.007, 0.024, 0.003)
    foot = shapes._box(x - 0.005, y - 0.017, 0.019, 0.007, 0.003)
    thumb = shapes._box(x - 0.001, y + 0.012, 0.010, 0.004, 0.002)
    inside = np.minimum(np.minimum(arm, foot), thumb)
    marks = np.clip(2 * np.sin(2 * np.pi * (x + 0.5 * y) / 0.012), -1, 1)  # that are mirrored with the part
    return 0.009 * np.clip(-inside / 0.003, 0, 1), marks, (0.5, 0.5, 0.5)


def mirror(root: Path) -> None:
    """Mirror every second raw scan of a category: x of its points negated, its arrays flipped from left to right."""
    for xyz in sorted(root.glob("*/*/xyz/*.tiff"))[::2]:
        points = np.ascontiguousarray(tifffile.imread(xyz)[:, ::-1])
        points[..., 0] *= -1
        tifffile.imwrite(xyz, points, photometric="rgb", compression="zlib", predictor=True, metadata=None)
        for kind in ("rgb", "gt"):
            path = xyz.parents[1] / kind / f"{xyz.stem}.png"
            if path.exists():
                flipped = np.ascontiguousarray(imagecodecs.png_decode(path.read_bytes())[:, ::-1])
                path.write_bytes(imagecodecs.png_encode(flipped))


@dataclass(frozen=True)
class Category:
    """A category that was rendered in the object's frame."""

    root: Path
    axis: str
    mirrored: bool
    scans: RawScans
    data: ShardSet

    @property
    def intrinsics(self) -> np.ndarray:
        """(V, 3, 3), pixels, of the rig."""
        return np.array(files.read_sealed_json(self.root / "renders" / HOOK / "rig.json", "a rig", "")["rig"]["intrinsics"])


@pytest.fixture(scope="module", params=CASES, ids=[f"{axis}{'-mirrored' * mirrored}" for axis, mirrored in CASES])
def category(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Category:
    axis, mirrored = request.param
    root = tmp_path_factory.mktemp("back")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(shapes.SHAPES, "hook", hook)
        generate("mvtec3d", root / "raw", ["hook"], OPTIONS, Silent())
    if mirrored:
        mirror(root / "raw" / "hook")
    options = replace(small_options(), rig=RigOptions(size=96, axis=axis))
    done = render_category(
        "mvtec3d", "hook", root / "raw", root / "renders", options, ("train", "test"), Workers(), False, Silent()
    )  # fmt: skip
    assert done.failed == 0
    assert (done.poses["axis"], done.poses["mirrored"]) == (axis, mirrored)
    pack_renders(root / "renders", "mvtec3d", "hook", root / "shards", PackOptions(), Silent())
    fields = ("rgb", "depth", "normal", "source")
    return Category(
        root, axis, mirrored, RawScans("mvtec3d", root / "raw", "hook"), ShardSet(root / "shards" / HOOK, "test", fields)
    )


def handedness(data: ShardSet) -> np.ndarray:
    assert data.object_poses is not None
    return np.sign(np.linalg.det(data.object_poses[:, :3, :3]))


@pytest.mark.thorough(2)
def test_poses_are_mirrored_where_scans_are(category: Category) -> None:
    found = handedness(category.data)
    assert set(found) == ({-1.0, 1.0} if category.mirrored else {1.0})
    assert category.data.pose_numbers is not None
    numbers = category.data.pose_numbers
    assert set(numbers[found < 0]) <= {-1, *range(numbers.max() // 2 + 1, numbers.max() + 1)}


def test_depth_and_cameras_give_the_raw_points_back(category: Category) -> None:
    """Metres along each pixel's ray, from the camera in the sensor's frame, meet the point that source names."""
    data = category.data
    for index, key in enumerate(data.keys):
        batch, points = data.batch([index]), category.scans.load(key).xyz.reshape(-1, 3).astype(np.float64)
        cameras = np.linalg.inv(data.object_poses[index]) @ data.poses
        assert (np.sign(np.linalg.det(cameras[:, :3, :3])) == handedness(data)[index]).all()
        for view in range(5):
            depth, source = batch.depth[0, view].numpy().astype(np.float64), batch.source[0, view].numpy()
            row, column = np.nonzero(depth)
            pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))])
            found = np.linalg.inv(category.intrinsics[view]) @ pixels * depth[row, column]
            found = (cameras[view, :3, :3] @ found + cameras[view, :3, 3:]).T
            named = points[source[row, column]]
            distances = np.linalg.norm(found - named, axis=1)[named[:, 2] > 0]  # small holes of the scan are filled
            assert len(distances) > 500
            assert np.median(distances) < 0.0003, "under the spacing of the points"
            assert np.quantile(distances, 0.99) < 0.003


def test_the_normals_of_views_are_those_of_the_raw_scan(category: Category) -> None:
    """The camera's rotation turns a view's normals to the directions in which the scan's own surface lies, for mirrored ones, too."""
    data = category.data
    for index, key in enumerate(data.keys):
        batch, scan = data.batch([index]), category.scans.load(key)
        cameras = np.linalg.inv(data.object_poses[index]) @ data.poses
        xyz = np.where(scan.valid[..., None], scan.xyz.astype(np.float64), np.nan)
        across = np.cross(np.gradient(xyz, axis=1), np.gradient(xyz, axis=0))
        across = (across / np.linalg.norm(across, axis=-1, keepdims=True)).reshape(-1, 3)
        across *= -np.sign(np.einsum("ij,ij->i", across, xyz.reshape(-1, 3)))[:, None]  # towards the sensor
        source, seen = batch.source[0, 0].numpy(), batch.seen[0, 0].numpy()
        normal = batch.normal[0, 0].numpy()[seen] / 127.5 - 1
        cosine = np.einsum("ij,ij->i", normal @ cameras[0, :3, :3].T, across[source[seen]])
        assert np.nanmedian(cosine) > 0.97
        assert np.nanmean(cosine > 0.5) > 0.9


def perfect(batch: object) -> AnomalyMaps:
    """Answer with the masks."""
    maps = batch.mask.float()  # type: ignore[attr-defined]
    scores = maps.amax(dim=(2, 3))
    return AnomalyMaps(maps, scores, scores.amax(dim=1))


def seen_points(batch: object, shape: tuple[int, ...]) -> np.ndarray:
    seen = np.zeros(np.prod(shape), bool)
    source = batch.source.numpy()  # type: ignore[attr-defined]
    seen[source[source >= 0]] = True
    return seen.reshape(shape)


def test_masks_projected_to_the_scan_are_its_ground_truth_wherever_it_is_seen(category: Category, tmp_path: Path) -> None:
    data, run = category.data, tmp_path / "run"
    record = RunRecord(
        "mvtec3d",
        "hook",
        {"input.modalities": ["depth"], "input.size": 96, "model": "perfect", "seed": 0},
        {},
        "none",
        "",
        {},
        None,
        {},
    )
    evaluator = ScanEvaluator(run, category.scans, ["mean", "max", "visibility"])
    result = evaluate_split(run, data, perfect, record, TrainedOn(), Silent(), callbacks=[evaluator])
    assert result.scan is not None
    seen_of_gt = []
    for index, written in enumerate(result.scan.samples):
        batch, scan = data.batch([index]), category.scans.load(written.key)
        truth = np.zeros(scan.valid.shape, bool) if scan.gt is None else scan.gt
        seen, fused = seen_points(batch, truth.shape), tifffile.imread(run / written.map)
        assert np.array_equal(fused[seen] > 0, truth[seen]), written.key
        assert seen.sum() > 1000
        if truth.any():
            seen_of_gt.append((seen & truth).sum() / truth.sum())
    assert np.mean(seen_of_gt) > 0.4, "the comparison is not empty"
    for rule in ("mean", "max", "visibility"):
        assert result.scan.figures[rule]["p_auroc"] is None or result.scan.figures[rule]["p_auroc"] > 0.9
    plain = [sample.turn_deg for sample in result.samples]
    assert plain == [float(turn) for turn in data.turns_deg]
    assert any(sample.mirrored for sample in result.samples) == category.mirrored


def test_maps_that_another_tool_makes_of_an_export_come_back_to_their_views(category: Category, tmp_path: Path) -> None:
    folder = export(source_of(category.root / "shards" / HOOK), tmp_path / "export", "mvtec-ad", "rgb", Silent())
    data = category.data
    for k, view in enumerate(data.views):
        for row in read_table(folder, view):
            path = (tmp_path / "maps" / view / row["image_path"]).with_suffix(".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((96, 96), np.float32)
            if row["mask_path"]:
                mask = (imagecodecs.png_decode((folder / view / row["mask_path"]).read_bytes()) > 0).astype(np.float32)
            np.save(path, mask)
            if row["split"] == "test":
                batch = data.batch([data.keys.index(row["key"])])
                assert np.array_equal(mask > 0, batch.mask[0, k].numpy() > 0)
                picture = imagecodecs.png_decode((folder / view / row["image_path"]).read_bytes())
                assert np.array_equal(picture, batch.rgb[0, k].numpy())
    found = evaluate_imported_maps(
        tmp_path / "run", "perfect", folder, tmp_path / "maps", category.root / "shards", Silent()
    )  # fmt: skip
    assert found.figures["p_auroc"] == pytest.approx(1.0, abs=1e-4)
    assert [sample.pose_number for sample in found.samples] == data.pose_numbers.tolist()


def test_maps_on_the_scans_grid_are_compared_with_the_raw_ground_truth(category: Category, tmp_path: Path) -> None:
    """Such maps never go through a view, so that mirroring must not touch them."""
    for ref in category.scans.of_split("test"):
        scan = category.scans.load(ref.key)
        path = tmp_path / "maps" / f"{ref.key}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, (np.zeros(scan.valid.shape) if scan.gt is None else scan.gt).astype(np.float32))
    found = evaluate_scan_maps(tmp_path / "run", "perfect", tmp_path / "maps", category.scans, Silent())
    assert found.figures["p_auroc"] == pytest.approx(1.0, abs=1e-4)
    assert {sample.pose_number for sample in found.samples} == {None}
