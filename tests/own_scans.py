"""Writers of own scans in the formats that people have, for tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from mvad.datasets.own.options import OwnScanOptions
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions, Scan, ScanRef
from mvad.errors import BadInput

Writer = Callable[[Path, Scan], None]


def write_npz(path: Path, scan: Scan) -> None:
    more = {} if scan.gt is None else {"gt": scan.gt.astype(np.uint8)}
    np.savez_compressed(path, xyz=scan.xyz, rgb=scan.rgb, **more)


def rows_of(scan: Scan) -> NDArray[np.void]:
    """Return the points of a scan as (H * W,) records, missing ones as nan."""
    rows = np.empty(scan.valid.size, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"] = np.where(scan.valid[..., None], scan.xyz, np.float32(np.nan)).reshape(-1, 3)
    rows["rgb"] = scan.rgb.reshape(-1, 3)
    return rows


def ply_header(count: int, encoding: str, remarks: str) -> str:
    values = "".join(f"property float {name}\n" for name in "xyz")
    values += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    return f"ply\nformat {encoding} 1.0\n{remarks}element vertex {count}\n{values}end_header\n"


def write_ply(path: Path, scan: Scan) -> None:
    height, width = scan.valid.shape
    header = ply_header(height * width, "binary_little_endian", f"obj_info num_cols {width}\nobj_info num_rows {height}\n")
    path.write_bytes(header.encode() + rows_of(scan).tobytes())


def write_text_ply(path: Path, scan: Scan) -> None:
    height, width = scan.valid.shape
    lines = [" ".join([*(f"{v:.9g}" for v in row["xyz"]), *map(str, row["rgb"])]) for row in rows_of(scan)]
    header = ply_header(height * width, "ascii", f"comment width = {width}, height = {height}\n")
    path.write_text(header + "\n".join(lines) + "\n")


def pcd_header(width: int, height: int, encoding: str) -> str:
    return (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {width * height}\nDATA {encoding}\n"
    )


def write_pcd(path: Path, scan: Scan) -> None:
    height, width = scan.valid.shape
    rows = rows_of(scan)
    packed = np.empty(len(rows), [("xyz", "<f4", 3), ("rgb", "<u4")])
    red, green, blue = rows["rgb"].astype(np.uint32).T
    packed["xyz"], packed["rgb"] = rows["xyz"], red << 16 | green << 8 | blue
    path.write_bytes(pcd_header(width, height, "binary").encode() + packed.tobytes())


def write_compressed_pcd(path: Path, scan: Scan) -> None:
    import imagecodecs

    height, width = scan.valid.shape
    rows = rows_of(scan)
    red, green, blue = rows["rgb"].astype("<u4").T
    columns = [*np.ascontiguousarray(rows["xyz"].T), (red << 16 | green << 8 | blue).astype("<u4")]
    plain = b"".join(column.tobytes() for column in columns)
    packed = imagecodecs.lzf_encode(plain)
    sizes = np.array([len(packed), len(plain)], "<u4").tobytes()
    path.write_bytes(pcd_header(width, height, "binary_compressed").encode() + sizes + packed)


WRITERS: dict[str, tuple[str, Writer]] = {
    "npz": ("npz", write_npz),
    "binary ply": ("ply", write_ply),
    "text ply": ("ply", write_text_ply),
    "binary pcd": ("pcd", write_pcd),
    "compressed pcd": ("pcd", write_compressed_pcd),
}


def convert(raw: Path, category: str, target: Path, ending: str, write: Writer) -> None:
    """Write every scan of a category in MVTec 3D-AD's tree as one file in the folder of its defect, its mask beside it."""
    reader = reader_for("mvtec3d")
    for ref in reader.refs(raw, category, ReadOptions()):
        folder = target / category / ref.split / ref.defect
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{ref.id}.{ending}", reader.load(ref))
        if "gt" in ref.paths and ending != "npz":
            shutil.copy(ref.paths["gt"], folder / f"{ref.id}_gt.png")


def write_mesh(path: Path, mesh: trimesh.Trimesh, marked: NDArray[np.bool_] | None = None) -> None:
    """Write a mesh, and one label per face beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)
    if marked is not None:
        np.save(path.with_name(f"{path.stem}_gt.npy"), marked)


def part(seed: int = 0) -> trimesh.Trimesh:
    """Return a closed part, millimetres: a box with a pin and a ball, turned a little."""
    rng = np.random.default_rng(seed)
    box = trimesh.creation.box((60, 40, 20))
    pin = trimesh.creation.cylinder(9, 30, sections=48)
    pin.apply_translation((10, 4, 20))
    ball = trimesh.creation.icosphere(subdivisions=3, radius=11)
    ball.apply_translation((-16, -5, 10))
    whole = trimesh.util.concatenate([box, pin, ball])
    whole.apply_transform(trimesh.transformations.rotation_matrix(rng.uniform(0, 0.2), rng.normal(size=3)))
    return whole


def ref_of(path: Path, **read: object) -> ScanRef:
    """Return the reference of the only scan of the category that a file at <raw>/part/<split>/<defect>/NAME makes."""
    (ref,) = reader_for("folder").refs(path.parents[3], path.parents[2].name, ReadOptions(own=OwnScanOptions(**read)))  # type: ignore[arg-type]
    return ref


def place(root: Path, name: str, where: str = "train/good") -> Path:
    path = root / "part" / where / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def refusal(path: Path, **read: object) -> str:
    """Return the one line in which a scan is refused."""
    with pytest.raises(BadInput) as caught:
        reader_for("folder").load(ref_of(path, **read))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path.parent)), text
    assert "; " in text, text  # what to do
    return text


Change = Callable[[Path], None]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def loaded(path: Path, read: OwnScanOptions = OwnScanOptions(unit="mm")) -> Scan:
    """Read the mesh at ``<raw>/<category>/<split>/<defect>/NAME``."""
    reader = reader_for("folder")
    raw, category = path.parents[3], path.parents[2].name
    ref = next(ref for ref in reader.refs(raw, category, ReadOptions(own=read)) if ref.paths["xyz"] == path)
    return reader.load(ref)
