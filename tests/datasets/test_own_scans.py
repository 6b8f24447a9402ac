"""Own scans and meshes as people have them: layouts, odd values, hostile and damaged files, each refused in one line."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import mvad
from own_scans import (
    WRITERS,
    Change,
    cut,
    pcd_header,
    place,
    ply_header,
    ref_of,
    refusal,
    write_npz,
    write_pcd,
    write_ply,
)
from PIL import Image

from mvad.datasets.own.find import find_scans
from mvad.datasets.own.options import OwnScanOptions, recorded_options
from mvad.datasets.own_scans import NO_NORMALS, NO_TRUTH
from mvad.datasets.registry import find_reader, licence_of, own_name, reader_for, register_dataset
from mvad.datasets.scan import ReadOptions, Scan
from mvad.errors import BadInput
from mvad.render.options import RenderOptions

H, W = 12, 16
READER = reader_for("folder")


def flat_scan(marked: bool = False) -> Scan:
    """A plane at 0.6 m with a missing point, and colours that name the point."""
    v, u = np.mgrid[:H, :W].astype(np.float32)
    xyz = np.stack([u * 1e-3, v * 1e-3, np.full((H, W), 0.6, np.float32)], 2)
    xyz[3, 4] = 0
    number = np.arange(H * W).reshape(H, W)
    rgb = np.stack([number % 251, number % 7, number % 3], 2).astype(np.uint8)
    gt = np.zeros((H, W), bool)
    gt[5:7, 5:9] = marked
    return Scan(xyz, xyz[..., 2] > 0, rgb, gt)


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_reads_back(form: str, tmp_path: Path) -> None:
    ending, write = WRITERS[form]
    path = place(tmp_path, f"a b-ü.{ending.upper()}")
    write(path.with_suffix(f".{ending}"), scan := flat_scan())
    path = path.with_suffix(f".{ending}").rename(path)
    found = READER.load(ref_of(path))
    assert np.array_equal(found.xyz, scan.xyz)
    assert np.array_equal(found.valid, scan.valid)
    assert np.array_equal(found.rgb, scan.rgb)


def test_places_and_masks(tmp_path: Path) -> None:
    """Scans lie in the defect's folder, in scans or in xyz; masks are NAME_gt beside them, or in gt."""
    folder = tmp_path / "part" / "test" / "dent"
    for name in ("one.npz", "scans/two.pcd", "xyz/three.ply"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write = {"npz": write_npz, "pcd": write_pcd, "ply": write_ply}[name[-3:]]
        write(folder / name, flat_scan(marked=name.startswith("one")))
    (folder / "gt").mkdir()
    mask = Image.fromarray(flat_scan(marked=True).gt.astype(np.uint8) * 255)  # type: ignore[union-attr]
    mask.save(folder / "scans" / "two_gt.png")
    mask.save(folder / "gt" / "three.PNG")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "notes.txt").write_text("scanned on a Tuesday")
    refs = READER.refs(tmp_path, "part", ReadOptions())
    assert [ref.id for ref in refs] == ["one", "three", "two"]
    for ref in refs:
        scan = READER.load(ref)
        assert scan.gt is not None
        assert scan.gt.sum() == 8
    (folder / "gt" / "three.PNG").unlink()
    assert NO_TRUTH in READER.load(READER.refs(tmp_path, "part", ReadOptions())[1]).notes
    new = READER.new_refs(tmp_path, "part", ReadOptions())
    assert [ref.id for ref in new] == ["part/test/dent/one", "part/test/dent/three", "part/test/dent/two"]
    assert all(ref.defect == "unknown" and "gt" not in ref.paths for ref in new)


def test_a_grid_can_be_stated(tmp_path: Path) -> None:
    path = place(tmp_path, "a.ply")
    scan = flat_scan()
    write_ply(path, scan)
    path.write_bytes(path.read_bytes().replace(b"obj_info num_cols", b"obj_info colour_of"))
    assert "have no grid; give --grid WIDTHxHEIGHT" in refusal(path)
    assert np.array_equal(READER.load(ref_of(path, grid=f"{W}x{H}")).xyz, scan.xyz)
    assert "no grid of 16 x 13" in refusal(path, grid="16x13")
    write_npz(path.with_suffix(".npz"), scan)
    path.unlink()
    assert "--grid says 12x16" in refusal(path.with_suffix(".npz"), grid="12x16")
    for grid in ("16", "0x4", "-3x4", "axb"):
        with pytest.raises(BadInput, match="expected WIDTHxHEIGHT"):
            ref_of(path.with_suffix(".npz"), grid=grid)


def test_normals_of_the_file_are_taken_towards_the_sensor(tmp_path: Path) -> None:
    path, scan = place(tmp_path, "a.npz"), flat_scan()
    normals = np.tile(np.array([0, 0, 2.0]), (H, W, 1))
    np.savez(path, xyz=scan.xyz, rgb=scan.rgb, normals=normals)
    found = READER.load(ref_of(path))
    assert found.normals is not None
    assert np.array_equal(found.normals[found.valid], np.tile(np.float32([0, 0, -1]), (H * W - 1, 1)))
    normals[7, 7] = np.nan
    np.savez(path, xyz=scan.xyz, rgb=scan.rgb, normals=normals)
    found = READER.load(ref_of(path))
    assert found.normals is None
    assert NO_NORMALS in found.notes


def changed_header(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))

    return change


def bomb(path: Path) -> None:
    """An NPZ whose array claims to be far larger than what its member holds."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20, 3)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xyz.npy", header.getvalue())


def pickled(path: Path) -> None:
    np.savez(path, xyz=np.array([[None, None]]), allow_pickle=True)


SCAN_FAULTS: dict[str, tuple[str, Change, str]] = {
    "cut ply": ("ply", cut, "was cut off"),
    "cut pcd": ("pcd", cut, "was cut off"),
    "cut npz": ("npz", cut, "not a readable NPZ"),
    "empty ply": ("ply", lambda p: p.write_bytes(b"") and None, "is empty"),
    "no ply": ("ply", lambda p: p.write_text("hello") and None, "is not a PLY file"),
    "git-lfs": ("ply", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n") and None, "pointer of git-lfs"),
    "no pcd": ("pcd", lambda p: p.write_text("hello") and None, "no PCD header"),
    "endless header": ("ply", lambda p: p.write_text("ply\n" + "comment x\n" * 9000) and None, "has no end"),
    "huge ply": ("ply", changed_header(f"vertex {H * W}", f"vertex {10**10}"), "reduce them"),
    "more points than bytes": ("ply", changed_header(f"vertex {H * W}", f"vertex {10**6}"), "was cut off"),
    "negative count": ("ply", changed_header(f"vertex {H * W}", "vertex -5"), "not of the format"),
    "other encoding": ("ply", changed_header("binary_little_endian", "zip"), "PLY format"),
    "unknown type": ("ply", changed_header("property float x", "property quad x"), "not of the format"),
    "no z": ("ply", changed_header("property float z", "property float q"), "no x, y, z"),
    "two x": ("ply", changed_header("property float y", "property float x"), "no x, y, z, or one value twice"),
    "list per point": ("ply", changed_header("property uchar red", "property list uchar int red"), "have a list"),
    "range grid": ("ply", changed_header("end_header", "element range_grid 5\nend_header"), "'range_grid' elements"),
    "wrong grid": ("ply", changed_header(f"num_cols {W}", f"num_cols {W + 1}"), "export every cell of the grid"),
    "colours of floats": ("ply", lambda p: _float_colours(p), "colours are float"),
    "integer points": ("ply", lambda p: _integer_points(p), "not of floating point"),
    "pcd of other size": ("pcd", changed_header(f"POINTS {H * W}", "POINTS 5"), "is not POINTS"),
    "huge pcd": ("pcd", lambda p: _huge_pcd(p), "reduce them"),
    "pcd without lists": ("pcd", changed_header("SIZE 4 4 4 4", "SIZE 4 4 4"), "not of the format"),
    "pcd with strange size": ("pcd", changed_header("SIZE 4 4 4 4", "SIZE 4 4 4 9"), "not of the format"),
    "pcd of integers": ("pcd", changed_header("TYPE F F F U", "TYPE F I F U"), "no x, y, z of floating point"),
    "cloud pcd": ("pcd", lambda p: _cloud_pcd(p), "have no grid; give --grid"),
    "compressed nonsense": ("pcd", changed_header("DATA binary", "DATA binary_compressed"), "not of the size"),
    "bomb": ("npz", bomb, "expected 2 to 8192 points per side"),
    "pickled": ("npz", pickled, "expected xyz"),
    "no xyz": ("npz", lambda p: np.savez(p, points=np.zeros((3, 3, 3))), "holds no array xyz"),
    "flat xyz": ("npz", lambda p: np.savez(p, xyz=np.zeros((9, 3))), "expected xyz"),
    "other rgb": ("npz", lambda p: np.savez(p, xyz=np.ones((4, 4, 3)), rgb=np.ones((4, 5, 3), np.uint8)), "rgb is"),
    "rgb of floats": ("npz", lambda p: np.savez(p, xyz=np.ones((4, 4, 3)), rgb=np.ones((4, 4, 3))), "rgb is"),
    "16-bit rgb": ("npz", lambda p: np.savez(p, xyz=np.ones((4, 4, 3)), rgb=np.ones((4, 4, 3), np.uint16)), "rgb is"),
    "all missing": ("npz", lambda p: np.savez(p, xyz=np.full((4, 4, 3), np.nan)), "no valid point"),
    "millimetres": ("npz", lambda p: np.savez(p, xyz=np.full((4, 4, 3), 600.0)), "give the unit of the file"),
    "towards the sensor": ("npz", lambda p: np.savez(p, xyz=np.full((4, 4, 3), -0.6)), "--axes opengl"),
    "marked although good": ("npz", lambda p: write_npz(p, flat_scan(marked=True)), "labelled good"),
}  # fmt: skip


def _float_colours(path: Path) -> None:
    header = ply_header(4, "ascii", "comment width 2\ncomment height 2\n").replace("uchar", "float")
    path.write_text(header + "0 0 1 0.5 0.5 0.5\n" * 4)


def _integer_points(path: Path) -> None:
    header = ply_header(4, "ascii", "comment width 2\ncomment height 2\n").replace("float", "int")
    path.write_text(header + "0 0 1 5 5 5\n" * 4)


def _huge_pcd(path: Path) -> None:
    path.write_bytes(pcd_header(9000, 9000, "binary").encode() + bytes(100))


def _cloud_pcd(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"WIDTH 16\nHEIGHT 12", b"WIDTH 192\nHEIGHT 1"))


@pytest.mark.parametrize("fault", SCAN_FAULTS)
def test_damaged_and_hostile_scans_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    ending, change, message = SCAN_FAULTS[fault]
    path = place(tmp_path, f"a.{ending}")
    {"ply": write_ply, "pcd": write_pcd, "npz": write_npz}[ending](path, flat_scan())
    change(path)
    tracemalloc.start()
    text = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in text
    assert peak < 8e6, "it was decoded before it was refused"


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = place(tmp_path, "a.npz")
    write_npz(path, flat_scan())
    write_ply(path.with_suffix(".ply"), flat_scan())
    assert "remove one" in next(iter(find_scans(path.parent).values())).fault
    path.with_suffix(".ply").unlink()
    Image.new("L", (W, H)).save(path.with_name("a_gt.png"))
    assert "has gt as well" in refusal(path)
    (path.with_name("a_gt.png")).unlink()
    assert READER.load(ref_of(path)).gt is not None
    with pytest.raises(BadInput, match="is one of organised scans, expected meshes"):
        ref_of(path, kind="mesh")


def test_scans_beside_folders_of_defects_are_refused(tmp_path: Path) -> None:
    write_npz(place(tmp_path, "a.npz", "train"), flat_scan())
    with pytest.raises(BadInput, match="move them to train/good"):
        READER.refs(tmp_path, "part", ReadOptions())


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("tests/dent", "part/tests: holds scans, but is no split; name it train, validation or test, or move it away"),
        ("anomaly", "part/anomaly: holds scans, but is no split"),
        ("train/good/day2", "good/day2: holds scans, but is no folder of a defect; move them up"),
        ("train/good/day2/scans", "good/day2: holds scans, but is no folder of a defect"),
    ],
)
def test_scans_that_would_not_be_found_are_refused(lost: str, told: str, tmp_path: Path) -> None:
    write_npz(place(tmp_path, "a.npz", "train/good"), flat_scan())
    assert len(READER.refs(tmp_path, "part", ReadOptions())) == 1
    place(tmp_path, "part.stl", "cad").write_bytes(b"solid part")
    place(tmp_path, "camera.npy", "calibration").write_bytes(b"")
    place(tmp_path, "times.mat", "train/good/info").write_bytes(b"")
    assert len(READER.refs(tmp_path, "part", ReadOptions())) == 1, "what is no scan of this sort may lie beside"
    write_npz(place(tmp_path, "b.npz", lost), flat_scan())
    with pytest.raises(BadInput, match=told):
        READER.refs(tmp_path, "part", ReadOptions())


def test_names_licences_and_records() -> None:
    assert own_name("pumps") == "folder-pumps"
    assert find_reader("folder-pumps").name == "folder-pumps"  # type: ignore[union-attr]
    assert find_reader("foldering") is None
    for name in ("a/b", "..", "-x", "a b", "x" * 99):
        with pytest.raises(BadInput, match="letters, digits"):
            own_name(name)
    with pytest.raises(BadInput, match="choose another name"):
        register_dataset(type("Mine", (), {"name": "folder-pumps"})())
    assert licence_of("folder", Path("nowhere")) == "not stated"
    assert licence_of("folder", Path("nowhere"), "ours") == "ours"
    for licence in ("", "two\nlines", "x" * 400):
        with pytest.raises(BadInput, match="--licence"):
            OwnScanOptions(licence=licence).check()
    own = OwnScanOptions("folder", "mesh", "mm", licence="ours")
    assert recorded_options(RenderOptions(read=own).recorded()) == own
    assert recorded_options(RenderOptions().recorded()) == OwnScanOptions()


def test_the_command_refuses_with_one_line_and_exit_code_3(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_ply(place(raw, "a.ply"), flat_scan())
    cut(place(raw, "a.ply"))
    base = ("render", "folder", "--raw", str(raw), "--workspace", str(tmp_path / "ws"))
    for arguments, message in (
        ((), "was cut off"),
        (("--unit", "inch"), "unit"),
        (("--grid", "5"), "WIDTHxHEIGHT"),
        (("--licence", ""), "--licence"),
        (("--name", "a/b"), "--name"),
    ):
        done = mvad(*base, *arguments)
        assert done.returncode == (2 if "inch" in arguments else 3), done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("mvad: ")]
        assert message in line
    done = mvad("render", "mvtec3d", "--raw", str(raw), "--name", "x", "--workspace", str(tmp_path / "ws"))
    assert done.returncode == 3
    assert "--name is for own scans" in done.stderr
