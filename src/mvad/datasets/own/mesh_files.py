"""Triangles of an STL, OBJ or PLY file with their colours, in the file's own unit and axes, in the order of the file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.datasets.images import placeholder, read_rgb
from mvad.datasets.own.grids import read_ply
from mvad.datasets.own.headers import MAX_FACES, MAX_POINTS, ply_header, read_head, size_of
from mvad.errors import BadInput, MissingComponent

TEXTURE = "the texture's colours are taken at the corners of the faces; what it shows within a face is not drawn"
NO_TEXTURE = "the texture is not read; the mesh is drawn with the other colours that it has, or in mid grey"
NO_MATERIALS = "the material file that the mesh names does not lie beside it; colours and textures of materials are not drawn"
POLYGONS = "faces with more than three corners are split: source is the number of the triangle, not of the face in the file"
MAX_TEXT = 256 << 20
"""Greatest size of an OBJ or text STL file, bytes: they are decoded as a whole."""
_STL_HEADER, _STL_FACE = 84, 50


@dataclass(frozen=True)
class MeshFile:
    """Triangles as a file has them.

    Attributes
    ----------
    vertices
        (V, 3) float64, in the file's unit.
    faces
        (F, 3) int64.
    colors
        (V, 3) uint8 of the vertices, (F, 3) uint8 of the faces, or None.
    file_faces, file_vertices
        Number of faces in the file, more or less than F where polygons were split; number of its vertices, or 0 where they are
        not those of ``vertices``.
    notes
        What was decided in reading it, one line each.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    colors: NDArray[np.uint8] | None
    file_faces: int
    file_vertices: int
    notes: tuple[str, ...] = ()

    @property
    def are_face_colors(self) -> bool:
        """Whether the colours are those of the faces."""
        return self.colors is not None and len(self.colors) == len(self.faces) != len(self.vertices)


def read_mesh(path: Path, beside: Mapping[str, Path]) -> MeshFile:
    """Read the triangles of a mesh; ``beside`` has the files that an OBJ file may use, by name.

    Raises
    ------
    BadInput
        If the file is missing, damaged, too large, has no face, or vertices that do not exist or are not finite.
    MissingComponent
        If trimesh is not installed.
    """
    ending = path.suffix.lower()
    mesh = _read_obj(path, beside) if ending == ".obj" else _read_stl(path) if ending == ".stl" else _read_ply(path)
    if len(mesh.faces) == 0:
        raise BadInput(f"{path}: has no faces; export the part as a mesh of triangles")
    if len(mesh.faces) > MAX_FACES or len(mesh.vertices) > MAX_POINTS:
        raise BadInput(f"{path}: {len(mesh.faces)} faces, at most {MAX_FACES} are drawn; simplify it")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise BadInput(f"{path}: a face names a vertex that is not there; export it again")
    if not np.isfinite(mesh.vertices[mesh.faces.ravel()]).all():
        raise BadInput(f"{path}: a corner of a face is not finite; export it again")
    return mesh


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise MissingComponent("reading meshes needs trimesh; pip install trimesh") from error
    return trimesh


def _read_stl(path: Path) -> MeshFile:
    size, head = size_of(path), read_head(path, 512)
    count = int.from_bytes(head[80:_STL_HEADER], "little") if len(head) >= _STL_HEADER else 0
    if count == 0 or size != _STL_HEADER + _STL_FACE * count:
        if not head.lstrip().lower().startswith(b"solid"):
            raise BadInput(f"{path}: {placeholder(path) or 'its size is not that of the faces in its header'}; export it again")
        _check_text(path)
    elif count > MAX_FACES:
        raise BadInput(f"{path}: {count} faces, at most {MAX_FACES} are drawn; simplify it")
    found = _loaded(path, _trimesh().exchange.stl.load_stl, {})
    faces = _triangles(path, found.get("faces"))
    return MeshFile(np.asarray(found.get("vertices", ()), dtype=np.float64).reshape(-1, 3), faces, None, len(faces), 0)


def _check_text(path: Path) -> None:
    if size_of(path) > MAX_TEXT:
        raise BadInput(f"{path}: more than {MAX_TEXT} bytes of text; save it as binary STL or PLY")


def _loaded(path: Path, load: Any, options: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(load(io.BytesIO(path.read_bytes()), **options))
    except Exception as error:  # trimesh raises many types for damaged files
        raise BadInput(f"{path}: not readable as a mesh ({' '.join(str(error).split())[:80]}); export it again") from error


def _triangles(path: Path, faces: Any) -> NDArray[np.int64]:
    """Return faces (F, 3) of what trimesh read; polygons are split."""
    try:
        if faces is None or len(faces) == 0:
            return np.zeros((0, 3), np.int64)
        if np.ndim(faces) != 2 or np.shape(faces)[1] != 3:
            faces = _trimesh().geometry.triangulate_quads(faces)
        return np.asarray(faces, dtype=np.int64).reshape(-1, 3)
    except (ValueError, TypeError, LookupError) as error:
        raise BadInput(f"{path}: its faces are not lists of three or more corners; export it as a mesh of triangles") from error


def _read_ply(path: Path) -> MeshFile:
    header = ply_header(path)
    try:
        found = read_ply(path)
    except BadInput as error:
        raise BadInput(
            f"{path}: damaged, cut off, or its faces have different numbers of corners; export it again as a mesh of triangles"
        ) from error
    faces = _triangles(path, found.get("faces"))
    colors = _rgb(found.get("vertex_colors"))
    by_face = _rgb(found.get("face_colors"))
    if colors is None and by_face is not None and len(by_face) == len(faces):
        colors = by_face
    found_so = ((POLYGONS, len(faces) != header.faces), (NO_TEXTURE, header.has_texture))
    notes = tuple(note for note, holds in found_so if holds)
    return MeshFile(np.asarray(found["vertices"], dtype=np.float64), faces, colors, header.faces, header.points, notes)


def _rgb(colors: Any) -> NDArray[np.uint8] | None:
    """Return colours (N, 3 or 4), of bytes or of floats from 0 to 1, as (N, 3) uint8."""
    if colors is None or np.ndim(colors) != 2 or np.shape(colors)[1] < 3:
        return None
    values = np.asarray(colors)[:, :3]
    if values.dtype.kind == "f":
        values = np.round(np.clip(np.nan_to_num(values), 0, 1) * 255)
    return values.astype(np.uint8)


def _read_obj(path: Path, beside: Mapping[str, Path]) -> MeshFile:
    size_of(path)
    _check_text(path)
    data = path.read_bytes()
    file_faces, file_vertices = (len(re.findall(rb"(?m)^[ \t]*%s[ \t]" % letter, data)) for letter in (b"f", b"v"))
    if b"\0" in data or not file_faces or not file_vertices:
        raise BadInput(f"{path}: {placeholder(path) or 'has no v and f lines'}; export it as OBJ with faces")
    if re.search(rb"(?m)^[ \t]*f[ \t][^\n]*-[0-9]", data):
        raise BadInput(f"{path}: its faces count vertices backwards (negative numbers); export it with absolute numbers")
    for name, file in beside.items():
        if not name.lower().endswith(".mtl"):
            read_rgb(file)  # its size, before trimesh decodes it
    load = _trimesh().exchange.obj.load_obj
    options = {"resolver": _Beside(beside), "group_material": False, "maintain_order": True}
    parts = list(_loaded(path, load, options).get("geometry", {}).values())[::-1]  # trimesh begins with the last
    starts = np.cumsum([0, *(len(part["vertices"]) for part in parts)])
    if not parts:
        raise BadInput(f"{path}: has no faces; export it as OBJ with faces")
    faces = np.concatenate([_triangles(path, part["faces"]) + start for part, start in zip(parts, starts, strict=False)])
    colors, notes = _obj_colors(parts)
    is_plain = len(parts) == 1 and len(parts[0]["vertices"]) == file_vertices
    vertices = np.concatenate([part["vertices"] for part in parts]).astype(np.float64)
    notes += (POLYGONS,) if len(faces) != file_faces else ()
    if re.search(rb"(?m)^mtllib[ \t]", data) and not any(name.lower().endswith(".mtl") for name in beside):
        notes += (NO_MATERIALS,)
    return MeshFile(vertices, faces, colors, file_faces, file_vertices if is_plain else 0, notes)


def _obj_colors(parts: list[dict[str, Any]]) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
    """Return the colours (V, 3) of the vertices of an OBJ file's parts: of their texture, material, or vertices; and notes."""
    found: list[NDArray[np.uint8] | None] = []
    textured = False
    for part in parts:
        visual, length = part.get("visual"), len(part["vertices"])
        colors = _rgb(part.get("vertex_colors"))
        material = getattr(visual, "material", None)
        image, uv = getattr(material, "image", None), getattr(visual, "uv", None)
        if material is not None and image is not None and uv is not None and len(uv) == length:
            colors, textured = _rgb(material.to_color(uv)), True
        elif colors is None and material is not None and getattr(material, "diffuse", None) is not None:
            colors = _rgb(np.tile(np.asarray(material.diffuse), (length, 1)))
        found.append(colors)
    if all(colors is None for colors in found):
        return None, ()
    grey = [np.full((len(part["vertices"]), 3), 128, np.uint8) for part in parts]
    filled = [plain if colors is None else colors for colors, plain in zip(found, grey, strict=True)]
    return np.concatenate(filled), (TEXTURE,) if textured else ()


class _Beside:
    """The files beside an OBJ file that it may use, as trimesh asks for them: by plain names, nothing else."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def get(self, name: str) -> bytes:
        """Return the content of a file."""
        if name not in self._files:
            raise FileNotFoundError(name)
        return self._files[name].read_bytes()

    __getitem__ = get


def files_beside(path: Path) -> dict[str, Path]:
    """Return the material file and the textures in the folder of an OBJ file that it names; of other kinds there are none."""
    if path.suffix.lower() != ".obj":
        return {}
    found: dict[str, Path] = {}
    try:
        material = re.search(rb"(?m)^mtllib[ \t]+(.+?)[ \t]*\r?$", read_head(path))
        named = _plain(path, material[1]) if material else None
        if named is not None:
            found[named.name] = named
            for texture in re.findall(rb"(?m)^[ \t]*map_Kd[ \t]+(.+?)[ \t]*\r?$", read_head(named)):
                picture = _plain(path, texture)
                if picture is not None:
                    found[picture.name] = picture
    except BadInput:
        return {}
    return found


def _plain(path: Path, name: bytes) -> Path | None:
    """Return the file beside another that has a name, unless it is a path to elsewhere or no file."""
    text = name.decode("utf-8", "replace")
    if "/" in text or "\\" in text or "." not in text.strip("."):
        return None
    place = path.parent / text
    return place if place.is_file() else None
