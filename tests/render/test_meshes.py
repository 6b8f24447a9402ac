"""Meshes: geometry against a ray caster, no holes from any side, mask == gt[source], face numbers of the file, normals, colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from command import ROOT, mvad
from own_scans import loaded, part, write_mesh
from PIL import Image
from scipy import ndimage

from mvad import api, files
from mvad.datasets.own.mesh_scan import corner_normals
from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.coding import decode_normal
from mvad.datasets.renders.record import read_manifest, read_record, read_sample
from mvad.datasets.scan import ReadOptions, Scan
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.backends.choose import rasteriser
from mvad.render.engine import Workers
from mvad.render.fit_rig import fit_mesh_rig, outline_of
from mvad.render.job import Summary, render_category
from mvad.render.mesh_surface import mesh_surface
from mvad.render.options import RenderOptions, RigOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Rig

MM = OwnScanOptions(unit="mm")
RING = RigOptions(views=12, tilt_deg=60, size=96)


def render(raw: Path, out: Path, rig: RigOptions = RING, read: OwnScanOptions = MM) -> Summary:
    options = RenderOptions(rig=rig, read=read)
    return render_category("folder", "part", raw, out, options, ("train", "test"), Workers(), False, Silent())


def marked_faces(mesh: trimesh.Trimesh) -> np.ndarray:
    """Mark the faces of the part's ball."""
    marked = np.zeros(len(mesh.faces), bool)
    marked[-1000:] = True
    return marked


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three meshes, STL and PLY mixed, rendered from 12 sides."""
    root = tmp_path_factory.mktemp("meshes")
    for name in ("train/good/a.stl", "train/good/b.ply", "test/ball/c.stl"):
        mesh = part()
        write_mesh(root / "raw" / "part" / name, mesh, marked_faces(mesh) if "ball" in name else None)
    done = render(root / "raw", root / "out")
    assert (done.rendered, done.failed) == (3, 0)
    assert done.poses["frame"] == "mesh"
    return root


def caster_of(path: Path) -> trimesh.Trimesh:
    """Return a mesh file as its author would load it, in metres and the cameras' axes."""
    mesh = trimesh.load(path, process=False)
    mesh.apply_scale(1e-3)
    mesh.apply_transform(np.diag([1.0, -1.0, -1.0, 1.0]))
    return mesh


def hits_of(mesh: trimesh.Trimesh, rig: Rig, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Return depth (S, S) and face (S, S) that a ray caster finds at the centres of a view's pixels; 0 and -1 where there is none."""
    line = np.arange(rig.size) + 0.5
    u, v = np.meshgrid(line, line)
    k, pose = rig.intrinsics[view], rig.poses[view]
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1).reshape(-1, 3) @ pose[:3, :3].T
    origins = np.tile(pose[:3, 3], (len(rays), 1))
    places, ray, face = mesh.ray.intersects_location(origins, rays, multiple_hits=False)
    depth, at = np.zeros(len(rays)), np.full(len(rays), -1)
    depth[ray], at[ray] = (places - pose[:3, 3]) @ pose[:3, 2], face
    return depth.reshape(rig.size, rig.size), at.reshape(rig.size, rig.size)


def test_depth_and_faces_are_those_of_a_ray_caster_in_all_views(rendered: Path, tell) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("embreex", reason="the ray caster's exact kernel is not installed")
    folder = rendered / "out" / "folder" / "part"
    rig = Rig.from_json(files.read_json(folder / "rig.json")["rig"])
    sample = read_sample(folder / "test/ball/c", record := read_record(folder / "test/ball/c"))
    mesh = caster_of(rendered / "raw/part/test/ball/c.stl")
    worst, silhouettes, others = 0.0, 0, 0
    for view in range(12):
        depth, face = hits_of(mesh, rig, view)
        seen = sample.source[view] >= 0
        silhouettes += int((seen != (face >= 0)).sum())
        both = seen & (face >= 0)
        error = np.abs(sample.coding.decode(sample.depth)[view] - depth)[both]
        others += int((sample.source[view] != face)[both].sum())
        worst = max(worst, float(np.quantile(error, 0.999)))
    tell(f"mesh against the ray caster, 12 views: depth error at the 99.9th percentile {1e6 * worst:.2f} um, coded in steps of "
         f"{1e6 * record['depth']['step_m']:.2f} um; silhouette pixels that differ {silhouettes}, faces that differ {others}")  # fmt: skip
    assert worst <= record["depth"]["step_m"] / 2 + 2e-7
    assert silhouettes <= 2
    assert others <= 2


def test_no_view_shows_a_hole(rendered: Path) -> None:
    folder = rendered / "out" / "folder" / "part"
    for sample in sorted(path.parent for path in folder.glob("*/*/*/record.json")):
        views = read_sample(sample, read_record(sample))
        for source in views.source:
            seen = source >= 0
            assert 0.2 < seen.mean() < 0.9
            assert np.array_equal(ndimage.binary_fill_holes(seen), seen)


def test_mask_is_ground_truth_at_source(rendered: Path) -> None:
    folder = rendered / "out" / "folder" / "part"
    mesh = part()
    record = read_record(folder / "test/ball/c")
    sample = read_sample(folder / "test/ball/c", record)
    assert record["scan_size"] == [1, 4096]
    marked = np.concatenate([marked_faces(mesh), [False]])  # -1 is not marked
    assert sample.source.max() < len(mesh.faces)
    assert np.array_equal(sample.mask > 0, marked[sample.source])
    assert sample.mask.any(axis=(1, 2)).all()
    audit = read_manifest(folder)["audit"]
    assert audit["total"] == 1000
    assert audit["background"]["grid"] == audit["background"]["object"] == 3 * len(mesh.faces)
    assert audit["background"]["missing"] == 0
    assert audit["seen_any"] == audit["total"] - audit["unseen"]


def test_normals_face_the_cameras_and_are_flat_on_flat_sides(rendered: Path) -> None:
    folder = rendered / "out" / "folder" / "part"
    rig = Rig.from_json(files.read_json(folder / "rig.json")["rig"])
    sample = read_sample(folder / "train/good/a", read_record(folder / "train/good/a"))
    box = caster_of(rendered / "raw/part/train/good/a.stl").face_normals[:12]
    for view in range(12):
        seen = sample.source[view] >= 0
        normal = decode_normal(sample.normal[view])
        assert (normal[..., 2][seen] < 0.2).all()
        on_box = seen & (sample.source[view] < 12)
        expected = box[sample.source[view][on_box]] @ rig.poses[view, :3, :3]
        assert np.abs(normal[on_box] - expected).max() < 0.01


def test_view_0_looks_from_above_with_x_to_the_right(tmp_path: Path) -> None:
    mesh = trimesh.creation.box((60, 40, 10))
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, :1] > 0, [[250, 0, 0, 255]], [[0, 0, 250, 255]])
    top = trimesh.creation.box((10, 10, 10))
    top.apply_translation((0, 12, 10))
    top.visual.vertex_colors = [0, 250, 0, 255]
    whole = trimesh.util.concatenate([mesh, top])
    write_mesh(tmp_path / "raw/part/train/good/a.ply", whole)
    done = render(tmp_path / "raw", tmp_path / "out", RigOptions(views=2, size=64))
    picture = np.asarray(Image.open(done.folder / "train/good/a/rgb_0.png"))
    row = picture[44]
    assert row[10, 2] > row[10, 0]
    assert row[-10, 0] > row[-10, 2]
    assert picture[22, 32].argmax() == 1  # +y is up


def test_faces_that_share_an_edge_evaluate_it_from_one_end() -> None:
    """The rasteriser's rule that no ray passes between two faces: both begin at the corner with the lower number."""
    rng = np.random.default_rng(0)
    corners = np.stack([np.roll(face, rng.integers(3), axis=0) for face in part().triangles.astype(np.float32)])
    path_normals, _ = corner_normals(corners, 40)
    scan = Scan(corners, corners[..., 0] > 0, corners)  # type: ignore[arg-type]  # only its mesh is used
    from mvad.datasets.scan import Mesh

    surface = mesh_surface(replace(scan, mesh=Mesh(corners, path_normals, np.zeros(corners.shape, np.uint8))).mesh)  # type: ignore[arg-type]
    assert surface.canonical() is surface
    ends: dict[frozenset[bytes], set[bytes]] = {}
    for face in surface.faces:
        for a, b in ((0, 1), (1, 2), (2, 0)):
            low, high = sorted((face[a], face[b]))
            first, second = (surface.vertices[v].tobytes() for v in (low, high))
            ends.setdefault(frozenset((first, second)), set()).add(first)
    assert len(ends) == 3 * len(corners) / 2
    assert all(len(first) == 1 for first in ends.values())
    normal = np.cross(*(surface.vertices[surface.faces[:, k]] - surface.vertices[surface.faces[:, 0]] for k in (1, 2)))
    before = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.einsum("fk,fk->f", normal, before).min() > 0  # the winding is kept


def test_colour_samples_change_nothing_but_colour_of_a_mesh(rendered: Path) -> None:
    scan = loaded(rendered / "raw/part/test/ball/c.stl")
    assert scan.mesh is not None
    rig = Rig.from_json(files.read_json(rendered / "out/folder/part/rig.json")["rig"])
    one, three = (render_views(mesh_surface(scan.mesh), scan.gt, rig, rasteriser("cpu"), samples) for samples in (1, 3))
    for name in ("depth", "normal", "mask", "source"):
        assert np.array_equal(getattr(one, name), getattr(three, name))


def test_kinds_are_not_mixed(rendered: Path, tmp_path: Path) -> None:
    write_mesh(tmp_path / "part/train/good/a.stl", part())
    np.savez(tmp_path / "part/train/good/b.npz", xyz=np.ones((4, 4, 3), np.float32))
    with pytest.raises(BadInput, match=r"holds meshes \(a.stl\) and organised scans \(b.npz\); keep one kind per category"):
        reader_for("folder").refs(tmp_path, "part", ReadOptions())
    with pytest.raises(BadInput, match="is one of meshes, expected organised scans"):
        reader_for("folder").new_refs(rendered / "raw", "part", ReadOptions(own=replace(MM, kind="scan")))


@pytest.mark.parametrize("center", ["category", "scan"])
def test_frame_sensor_gives_one_field_of_view_and_can_follow_the_mesh(center: str, tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 30)):
        mesh = part()
        mesh.apply_translation((shift, 0, 0))
        write_mesh(tmp_path / f"raw/part/train/good/{name}.stl", mesh)
    rig = RigOptions(views=3, tilt_deg=60, size=64, frame="sensor", center=center)  # type: ignore[arg-type]
    done = render(tmp_path / "raw", tmp_path / "out", rig)
    assert done.failed == 0
    first, second = (read_sample(done.folder / f"train/good/{n}", read_record(done.folder / f"train/good/{n}")) for n in "ab")
    same = (first.source == second.source).mean()
    assert same > 0.99 if center == "scan" else same < 0.9
    focal = np.array(read_manifest(done.folder)["rig"]["intrinsics"])[:, 0, 0]
    assert len(set(focal)) == 1


@pytest.mark.thorough(4)
def test_meshes_are_predicted_packed_and_kept_from_what_needs_a_grid(tmp_path: Path) -> None:
    ws = tmp_path / "ws"
    for name in (
        "train/good/a.stl",
        "train/good/b.stl",
        "train/good/c.stl",
        "validation/good/f.stl",
        "test/ball/d.stl",
        "test/good/e.stl",
    ):
        mesh = part(1)
        write_mesh(ws / "raw/folder/part" / name, mesh, marked_faces(mesh) if "ball" in name else None)
    place = ("--workspace", str(ws))
    size = ("--views", "4", "--tilt", "60", "--size", "64")
    assert "--unit mm --views 12 --tilt 60" in (ROOT / "docs" / "own-scans.md").read_text()
    done = mvad("render", "folder", "--unit", "mm", *size, *place)
    assert done.returncode == 0, done.stderr
    assert mvad("pack", "--dataset", "folder", *place).returncode == 0
    inputs = ("--modalities", "depth,normal", "--set", "input.size=64")
    trained = mvad("train", "--model", "mean_feature", "--dataset", "folder", *inputs, *place)
    assert trained.returncode == 0, trained.stderr
    run = next((ws / "runs").iterdir())
    evaluated = mvad("evaluate", str(run), *place)
    assert evaluated.returncode == 0, evaluated.stderr
    projected = mvad("evaluate", str(run), "--project-to-scan", *place)
    assert projected.returncode == 3
    assert "holds meshes" in projected.stderr
    new = tmp_path / "new"
    write_mesh(new / "tray 1/x.stl", part(1))
    predicted = mvad("predict", str(run), str(new), *place, "--json", "-")
    assert predicted.returncode == 0, predicted.stderr
    assert "tray 1/x" in predicted.stdout
    alone = mvad("predict", str(run), str(new / "tray 1" / "x.stl"), *place, "--json", "-")
    assert alone.returncode == 0, alone.stderr
    wrong = mvad("predict", str(run), str(tmp_path / "ws" / "runs"), *place)  # maps, which are TIFF, are no scans
    assert wrong.returncode == 3
    assert "holds no folder scan" in wrong.stderr
    checked = mvad("verify", *place, "--raw", str(ws / "raw"))
    assert checked.returncode == 0, checked.stderr
    assert ShardSet(ws / "shards/folder/part", "train").is_mesh
    refused = mvad("train", "--preset", "small", "--dataset", "folder", *inputs, "--set", "pseudo.views=consistent", *place)
    assert refused.returncode == 3
    assert "whose faces are no grid" in refused.stderr


def test_one_mesh_is_rendered_by_the_api(tmp_path: Path) -> None:
    write_mesh(tmp_path / "a.stl", part())
    options = RenderOptions(rig=RigOptions(views=3, tilt_deg=60, size=64), read=MM)
    views = api.render_scan(tmp_path / "a.stl", options=options)
    assert ((views.source >= 0).mean(axis=(1, 2)) > 0.2).all()
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(BadInput, match="is no scan and no mesh"):
        api.render_scan(tmp_path / "a.doc")


def test_fine_meshes_are_framed_by_few_points_and_not_cut() -> None:
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.1)
    ball.vertices *= [1, 0.6, 0.3]
    points = ball.triangles.reshape(-1, 3).astype(np.float32)
    outline = outline_of(points)
    assert len(outline) <= 400
    rig = fit_mesh_rig([outline], RING)
    assert rig.cut(points) == []
    assert fit_mesh_rig([points.astype(np.float64)], RING).intrinsics[:, 0, 0] == pytest.approx(rig.intrinsics[:, 0, 0], rel=0.02)


def test_packed_faces_are_those_of_the_render(rendered: Path, tmp_path: Path) -> None:
    folder = pack_renders(rendered / "out", "folder", "part", tmp_path, PackOptions(), Silent()).parent
    test = ShardSet(folder, "test")
    assert test.scan_sizes.tolist() == [[1, 4096]]
    assert len(test.views) == 12
