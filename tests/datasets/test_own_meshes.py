"""Meshes and their labels as people have them: files, colours, normals, hostile and damaged files, each refused in one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from own_scans import Change, cut, loaded, part, place, ply_header, ref_of, refusal, write_mesh
from PIL import Image

from mvad.datasets.own.headers import MAX_FACES
from mvad.datasets.own.mesh_files import POLYGONS, TEXTURE
from mvad.datasets.own.mesh_scan import INSIDE_OUT, NOT_CLOSED, corner_normals, weld
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions

READER = reader_for("folder")


def test_normals_are_smooth_on_the_ball_and_the_pin_and_not_across_edges() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=1)
    normals, notes = corner_normals(ball.triangles.astype(np.float32), 40)
    assert notes == ()
    assert np.abs(normals - ball.triangles).max() < 0.01
    box = trimesh.creation.box((1, 2, 3))
    normals, _ = corner_normals(box.triangles.astype(np.float32), 40)
    assert np.allclose(normals, box.face_normals[:, None], atol=1e-6)
    normals, _ = corner_normals(box.triangles.astype(np.float32), 91)
    assert np.abs(normals).max() < 0.9
    inside_out = ball.triangles[:, ::-1].astype(np.float32)
    assert corner_normals(inside_out, 40)[1] == (INSIDE_OUT,)
    assert np.einsum("fki,fki->fk", corner_normals(inside_out, 40)[0], inside_out).min() > 0.9
    assert corner_normals(ball.triangles[1:].astype(np.float32), 40)[1] == (NOT_CLOSED,)
    assert weld(ball.triangles.astype(np.float32)).max() + 1 == len(ball.vertices)


def test_labels_of_vertices_mark_the_faces_around_them(tmp_path: Path) -> None:
    mesh = part()
    labels = np.zeros(len(mesh.vertices), int)
    labels[[3, 500]] = 1
    expected = np.isin(mesh.faces, [3, 500]).any(axis=1)
    for ending in ("npz", "npy", "txt"):
        path = tmp_path / ending / "part/test/dent/a.ply"
        write_mesh(path, mesh)
        target = path.with_name(f"a_gt.{ending}")
        if ending == "npz":
            np.savez(target, vertices=labels)
        elif ending == "npy":
            np.save(target, labels)
        else:
            np.savetxt(target, labels, fmt="%d")
        gt = loaded(path).gt
        assert gt is not None
        assert np.array_equal(gt.reshape(-1)[: len(expected)], expected)
        assert not gt.reshape(-1)[len(expected) :].any()


OBJ = """mtllib two.mtl
v 0 0 0
v 100 0 0
v 100 100 0
v 0 100 0
v 0 0 50
vt 0.1 0.5
vt 0.9 0.5
usemtl red
f 1 3 2
usemtl blue
f 1 4 3
usemtl red
f 1 2 5
"""


def test_faces_of_an_obj_keep_their_numbers_across_materials(tmp_path: Path) -> None:
    path = tmp_path / "part/train/good/a.obj"
    path.parent.mkdir(parents=True)
    path.write_text(OBJ)
    path.with_name("two.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    scan = loaded(path)
    assert scan.mesh is not None
    expected = np.array([[1, 3, 2], [1, 4, 3], [1, 2, 5]]) - 1
    points = np.array([[0, 0, 0], [100, 0, 0], [100, 100, 0], [0, 100, 0], [0, 0, 50]]) * [1e-3, -1e-3, -1e-3]
    assert np.allclose(scan.mesh.corners, points[expected], atol=1e-7)
    assert scan.mesh.colors[:, 0].argmax(axis=1).tolist() == [0, 2, 0]
    ref = reader_for("folder").refs(tmp_path, "part", ReadOptions())[0]
    assert set(ref.paths) == {"xyz", "two.mtl"}


def test_textures_are_taken_at_the_corners_and_only_from_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "raw/part/train/good/a.obj"
    path.parent.mkdir(parents=True)
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, :4, 0], stripes[:, 4:, 2] = 255, 255
    for folder in (path.parent, tmp_path):
        Image.fromarray(stripes).save(folder / "stripes.png")
    path.write_text("mtllib m.mtl\nv 0 0 0\nv 9 0 0\nv 9 9 0\nvt 0.1 0.5\nvt 0.9 0.5\nusemtl s\nf 1/1 2/2 3/2\n")
    path.with_name("m.mtl").write_text("newmtl s\nKd 0 1 0\nmap_Kd stripes.png\n")
    scan = loaded(path)
    assert scan.mesh is not None
    assert scan.mesh.colors[0].argmax(axis=1).tolist() == [0, 2, 2]
    assert TEXTURE in scan.notes
    for elsewhere in ("../../../../../stripes.png", str(tmp_path / "stripes.png")):
        path.with_name("m.mtl").write_text(f"newmtl s\nKd 0 1 0\nmap_Kd {elsewhere}\n")
        scan = loaded(path)
        assert scan.mesh is not None
        assert scan.mesh.colors[0].argmax(axis=1).tolist() == [1, 1, 1]


def cut_labels(path: Path) -> None:
    np.savez(path, faces=np.zeros(5000, int))
    cut(path)


def obj(text: str) -> Change:
    return lambda path: path.write_text(text) and None


SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
MESH_FAULTS: dict[str, tuple[str, Change, str]] = {
    "cut stl": ("stl", cut, "its size is not that of the faces"),
    "cut ply": ("ply", cut, "cut off"),
    "stl of many faces": ("stl", lambda p: p.write_bytes(bytes(80) + struct.pack("<I", 2**32 - 1)) and None, "its size"),
    "text": ("stl", lambda p: p.write_text("hello") and None, "its size"),
    "solid nothing": ("stl", lambda p: p.write_text("solid x\nendsolid x\n") and None, "mesh"),
    "solid nonsense": ("stl", lambda p: p.write_text("solid x\nfacet normal a b c\nouter loop\nvertex 1 2\n") and None, "mesh"),
    "website": ("stl", lambda p: p.write_text("<!DOCTYPE html><html>") and None, "page of a website"),
    "empty obj": ("obj", obj("# nothing\n"), "no v and f lines"),
    "points alone": ("obj", obj(SQUARE), "no v and f lines"),
    "binary obj": ("obj", lambda p: p.write_bytes(b"v 0 0 0\nf 1 1 1\n\0\0") and None, "no v and f lines"),
    "vertex not there": ("obj", obj(SQUARE + "f 1 2 9\n"), "mesh"),
    "backwards": ("obj", obj(SQUARE + "f -1 -2 -3\n"), "negative numbers"),
    "nan": ("obj", obj("v 0 0 nan\nv 1 0 0\nv 1 1 0\nf 1 2 3\n"), "not finite"),
    "two corners": ("obj", obj(SQUARE + "f 1 2\n"), "mesh"),
    "words": ("obj", obj("v a b c\nf x y z\n"), "mesh"),
    "negative index": ("ply", lambda p: _ply_mesh(p, "3 0 1 -2"), "a vertex that is not there"),
    "index too large": ("ply", lambda p: _ply_mesh(p, "3 0 1 7"), "a vertex that is not there"),
    "too many faces": ("ply", lambda p: _ply_mesh(p, "3 0 1 2", faces=MAX_FACES + 1), "faces; expected"),
    "in metres": ("stl", lambda p: _scaled(p, 1e3), "give the unit of the file"),
    "a speck": ("stl", lambda p: _scaled(p, 1e-9), "give the unit of the file"),
    "cad": ("step", lambda p: p.write_text("ISO-10303-21;") and None, "export it as STL"),
    "cloud": ("xyz", lambda p: p.write_text("0 0 1\n") and None, "points without a grid"),
}  # fmt: skip


def _ply_mesh(path: Path, face: str, faces: int = 1) -> None:
    header = f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_text(ply_header(3, "ascii", "").replace("end_header\n", header) + "0 0 1 5 5 5\n1 0 1 5 5 5\n0 1 1 5 5 5\n" + face)


def _scaled(path: Path, factor: float) -> None:
    mesh = part()
    mesh.apply_scale(factor)
    mesh.export(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("fault", MESH_FAULTS)
def test_damaged_and_hostile_meshes_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    ending, change, message = MESH_FAULTS[fault]
    path = place(tmp_path, f"a.{ending}")
    if ending in ("stl", "ply"):
        write_mesh(path, part())
    change(path)
    assert message in refusal(path)


LABEL_FAULTS: dict[str, tuple[str, Change, str]] = {
    "too few": ("npy", lambda p: np.save(p, np.zeros(7, int)), "7 labels for a mesh of"),
    "floats": ("npy", lambda p: np.save(p, np.zeros(7)), "expected one 0 or 1"),
    "other numbers": ("npy", lambda p: np.save(p, np.arange(len(part().faces))), "expected one 0 or 1"),
    "objects": ("npy", lambda p: np.save(p, np.array([None] * 5), allow_pickle=True), "expected one 0 or 1"),
    "words": ("txt", lambda p: p.write_text("yes no") and None, "not readable as labels"),
    "no array": ("npz", lambda p: np.savez(p, gt=np.zeros(5)), "named faces or vertices"),
    "cut": ("npz", lambda p: cut_labels(p), "not readable as labels"),
    "empty": ("txt", lambda p: p.write_text("") and None, "is empty"),
    "a picture": ("png", lambda p: Image.new("L", (8, 8)).save(p), "one 0 or 1 per face or vertex"),
}  # fmt: skip


@pytest.mark.parametrize("fault", LABEL_FAULTS)
def test_labels_that_do_not_fit_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    ending, change, message = LABEL_FAULTS[fault]
    path = place(tmp_path, "a.ply", "test/dent")
    write_mesh(path, part())
    change(path.with_name(f"a_gt.{ending}"))
    assert message in refusal(path, unit="mm")


def test_labels_that_could_be_of_faces_or_vertices_are_refused(tmp_path: Path) -> None:
    path = place(tmp_path, "a.ply", "test/dent")
    tetrahedron = trimesh.Trimesh(np.eye(4)[:, :3], [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]], process=False)
    write_mesh(path, tetrahedron)
    labels = np.array([0, 0, 0, 1])
    np.save(path.with_name("a_gt.npy"), labels)
    assert "as many faces as vertices" in refusal(path)
    path.with_name("a_gt.npy").unlink()
    np.savez(path.with_name("a_gt.npz"), vertices=labels)
    gt = READER.load(ref_of(path)).gt
    assert gt is not None
    assert gt[0, :4].tolist() == [False, True, True, True]


def test_quads_are_split_and_their_labels_refused(tmp_path: Path) -> None:
    path = place(tmp_path, "a.obj", "test/dent")
    path.write_text(SQUARE + "f 1 2 3 4\n")
    scan = READER.load(ref_of(path))
    assert scan.mesh is not None
    assert len(scan.mesh.corners) == 2
    assert POLYGONS in scan.notes
    np.save(path.with_name("a_gt.npy"), np.array([1]))
    assert "more than three corners" in refusal(path)
    np.save(path.with_name("a_gt.npy"), np.array([0, 1, 0, 0]))
    gt = READER.load(ref_of(path)).gt
    assert gt is not None
    assert 1 <= gt.sum() <= 2
