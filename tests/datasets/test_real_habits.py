"""Photographs and scans as people have them: on other disks, of other kinds, under other words; none is lost without a word."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mvad.datasets import realiad
from mvad.datasets.folders import below
from mvad.datasets.images import read_levels
from mvad.datasets.own.headers import ply_header
from mvad.datasets.own_scans import OwnScans
from mvad.datasets.photographs.arriving import find_new
from mvad.datasets.photographs.category import FolderOptions, check_sound, find
from mvad.datasets.photographs.layouts import Layout
from mvad.datasets.photographs.pattern import find_by_pattern
from mvad.datasets.photographs.table import find_in_table
from mvad.datasets.registry import reader_for
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.pack import PackOptions, pack_category
from mvad.datasets.shards.sources import CategorySource
from mvad.errors import BadInput
from mvad.pipeline.photographs import place_of
from mvad.pipeline.trained_run import workspace_of
from mvad.progress import Silent


def save(path: Path, values: NDArray[np.generic] | None = None, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8) if values is None else values).save(path, kind)
    return path


def found_in(root: Path, **options: object):  # type: ignore[no-untyped-def]
    return find(root, FolderOptions(**options))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- links


def test_links_are_entered_and_links_back_are_not(tmp_path: Path) -> None:
    (tmp_path / "store/s1").mkdir(parents=True)
    (tmp_path / "store/s1/a.png").touch()
    (tmp_path / "root/.hidden").mkdir(parents=True)
    (tmp_path / "root/.hidden/b.png").touch()
    (tmp_path / "root/linked").symlink_to(tmp_path / "store")
    (tmp_path / "root/again").symlink_to(tmp_path / "store")
    (tmp_path / "store/s1/back").symlink_to(tmp_path / "store")
    (tmp_path / "root/lot").mkdir()
    (tmp_path / "root/lot/c.png").touch()
    (tmp_path / "root/latest").symlink_to(tmp_path / "root/lot")
    (tmp_path / "root/up").symlink_to(tmp_path)
    names = [path.relative_to(tmp_path / "root").as_posix() for path in below(tmp_path / "root")]
    entered = ["again/s1", "again/s1/a.png", "again/s1/back"]
    assert names == ["again", "latest", "linked", "lot", "lot/c.png", "up", *entered], (
        "once, and not through what holds the folder"
    )
    assert list(below(tmp_path / "root/lot/c.png")) == []


def test_a_folder_that_may_not_be_read_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lost+found beside lots that are watched; root may read everything, so that the answer is that of another user."""
    for name in ("lot/a.png", "lost+found/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scan = os.scandir

    def scandir(folder: str) -> object:
        if "lost" in str(folder):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sorted(path.name for path in below(tmp_path)) == ["a.png", "lost+found", "lot"]


@pytest.mark.parametrize("reader", ["mvtec3d", "eyecandies", "realiadd3", "folder"])
def test_new_scans_in_linked_folders_are_found(reader: str, tmp_path: Path) -> None:
    names = {
        "mvtec3d": ("xyz/000.tiff", "rgb/000.png"), "eyecandies": ("data/00_depth.png",), "realiadd3": ("xyz/000.tiff", "rgb/000/a.png"),
        "folder": ("000.npz",),
    }  # fmt: skip
    for lot in ("store/lot1", "new/lot2"):
        for name in names[reader]:
            path = tmp_path / lot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "new/lot1").symlink_to(tmp_path / "store/lot1")
    made = OwnScans() if reader == "folder" else reader_for(reader)
    refs = made.new_refs(tmp_path / "new", "c", ReadOptions())
    assert sorted({ref.id.split("/")[0].split("_")[0] for ref in refs}) == ["lot1", "lot2"]


def test_linked_parts_are_packed(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"parts/good/p{k}/a.png")
    save(tmp_path / "store/s1/a.png")
    (tmp_path / "parts/scratch").mkdir()
    (tmp_path / "parts/scratch/s1").symlink_to(tmp_path / "store/s1")
    (found,) = found_in(tmp_path / "parts")
    assert {sample.defect for sample in found.samples} == {"good", "scratch"}
    listed = find_by_pattern(tmp_path / "parts", "folder", "c", Layout(pattern="{defect}/{sample}/{view}.png"))
    assert [sample.id for sample in listed.samples if sample.defect == "scratch"] == ["s1"]


# ---------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("word", "defect"),
    [
        ("no_defect", "good"), ("No Defect", "good"), ("defect-free", "good"), ("non-anomalous", "good"), ("0.0", "good"), ("0", "good"),
        ("1.0", "defect"), ("不OK", "不OK"), ("true", "defect"), ("dent", "dent"), ("10", "10"),
    ],
)  # fmt: skip
def test_words_for_good_in_a_table_are_those_of_folders(word: str, defect: str, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"sample,split,defect,image\nb,test,{word},a.png\n")
    listed = find_in_table(tmp_path / "t.csv", tmp_path, "folder", "c", Layout())
    assert [(sample.defect, listed.problems) for sample in listed.samples] == [(defect, [])]


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        (
            "{split}/{sample}/{view}.png",
            ("train/p1/top.png", "test/p2/top.png", "test/p2/left.png"),
            [("train", "good", "p1", 1), ("test", "good", "p2", 2)],
        ),
        (
            "{split}/{view}/{sample}.png",
            ("train/left/p0.png", "test/left/p1.png", "test/top/p1.png"),
            [("train", "good", "p0", 1), ("test", "good", "p1", 2)],
        ),
        (
            "{split}_{sample}/{view}.png",
            ("train_p1/a.png", "test_p2/a.png"),
            [("train", "good", "p1", 1), ("test", "good", "p2", 1)],
        ),
        (
            "{split}/[a-z]+/{sample}_{view}.png",
            ("train/good/p1_a.png", "test/dent/p2_a.png"),
            [("train", "good", "p1", 1), ("test", "dent", "p2", 1)],
        ),
    ],
)
def test_folders_that_a_pattern_names_are_no_defects(
    pattern: str, names: tuple[str, ...], expected: list[tuple[str, str, str, int]], tmp_path: Path
) -> None:
    for name in names:
        save(tmp_path / name)
    if "[" in pattern:  # a folder that the pattern does not name: a regular expression
        pattern = (
            pattern.replace("{split}", "(?P<split>[^/]+)")
            .replace("{sample}", "(?P<sample>[^/_]+)")
            .replace("{view}", "(?P<view>[^/.]+)")
        )
        pattern = pattern.replace(".png", r"\.png")
    listed = find_by_pattern(tmp_path, "folder", "c", Layout(pattern=pattern))
    assert listed.problems == []
    made = [(sample.split, sample.defect, sample.id, len(sample.views)) for sample in listed.samples]
    assert sorted(made) == sorted(expected)


# ---------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("name", ["000_mask.PNG", "000.jpeg", "000_mask.webp"])
def test_masks_beside_the_splits_are_of_any_kind(name: str, tmp_path: Path) -> None:
    for place in ("train/good/001.png", "train/good/002.png", "test/scratch/000.png"):
        save(tmp_path / place)
    mask = save(tmp_path / "ground_truth/scratch" / name)
    (found,) = found_in(tmp_path)
    assert [sample.views[0].mask for sample in found.samples if sample.defect == "scratch"] == [mask]


def test_pictures_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    for part in ("p1", "p2", "p4"):
        for view in ("top", "left"):
            save(tmp_path / f"train/good/{part}/{view}.jpg")
    (tmp_path / "train/good/p2/left.jpg").rename(tmp_path / "train/good/p2/left.jp2")
    for path in ("p3/top.HEIC", "p3/left.HEIC", "p4/top.NEF"):  # of p4 a picture that is read lies beside it
        (tmp_path / "train/good" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "train/good" / path).touch()
    (found,) = found_in(tmp_path)
    assert sorted(sample.id for sample in found.samples) == ["p1", "p4"]
    assert sorted(line.split(":")[0].removeprefix(str(tmp_path)) for line in found.listing.problems) == [
        "/train/good/p2/left.jp2", "/train/good/p3/left.HEIC", "/train/good/p3/top.HEIC",
    ]  # fmt: skip
    new = {
        sample.id: sample.fault for sample in find_new(tmp_path / "train/good", "c", "folder", Layout(), ["left", "top"]).samples
    }
    assert sorted(new) == ["p1", "p2", "p3", "p4"]
    assert "p3/left.HEIC: pictures of this kind are not read; save it as PNG or JPEG" in new["p3"]
    assert new["p1"] == new["p4"] == ""
    listed = find_new(tmp_path / "train/good", "c", "folder", Layout(), ["left", "top"]).samples
    assert place_of(next(ref for ref in listed if ref.id == "p3")) == tmp_path / "train/good/p3"


def test_a_mask_of_sixteen_bits_with_an_alpha_channel_marks_what_is_grey(tmp_path: Path) -> None:
    values = np.zeros((6, 5, 2), np.uint16)
    values[..., 1] = 65535
    values[1:3, 1:3, 0] = 65535
    (tmp_path / "m.png").write_bytes(imagecodecs.png_encode(values))
    assert read_levels(tmp_path / "m.png")[0].astype(bool).sum() == 4
    values[0, 0, 1] = 7
    (tmp_path / "m.png").write_bytes(imagecodecs.png_encode(values))
    with pytest.raises(BadInput, match=r"m.png: has transparent pixels, so what it marks is a guess"):
        read_levels(tmp_path / "m.png")


def test_a_mesh_keeps_its_scanners_remarks(tmp_path: Path) -> None:
    lines = [
        "ply", "format ascii 1.0", "obj_info num_cols 512", "obj_info num_rows 400", "element vertex 3", "property float x",
        "property float y", "property float z", "element face 1", "property list uchar int vertex_indices", "end_header",
        "0 0 1", "1 0 1", "0 1 1", "3 0 1 2",
    ]  # fmt: skip
    (tmp_path / "part.ply").write_text("\n".join(lines) + "\n")
    header = ply_header(tmp_path / "part.ply")
    assert (header.faces, header.shape) == (1, None)


# ---------------------------------------------------------------------------------------------------- what is left over


def test_a_view_of_test_parts_alone_costs_its_part_and_is_listed(tmp_path: Path) -> None:
    for place in (
        "train/good/p1/top",
        "train/good/p2/top",
        "test/scratch/q0/top",
        "test/scratch/q1/top",
        "test/scratch/q1/detail",
    ):
        save(tmp_path / f"{place}.png")
    (found,) = found_in(tmp_path)
    told = f"{tmp_path}/test/scratch/q1/detail.png: the view detail is in no training part; add it there, or remove it"
    assert found.listing.problems == [told]
    assert sorted(sample.id for sample in found.samples) == ["p1", "p2", "q0"]
    check_sound(found, partial_accepted=True)


def test_folders_with_pictures_beside_categories_are_told(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"cats/bolts/train/good/{k}.png")
    save(tmp_path / "cats/nuts/OK parts/1.png")
    save(tmp_path / "cats/clips/1.png")
    (tmp_path / "cats/empty").mkdir()
    (found,) = found_in(tmp_path / "cats")
    assert [line.split(":")[0] for line in found.problems] == [str(tmp_path / "cats" / name) for name in ("clips", "nuts")]
    assert found.listing.problems == [], "nothing of the category itself is missing"
    with pytest.raises(BadInput, match="holds pictures, but neither train nor good"):
        check_sound(found)
    assert found_in(tmp_path / "cats", category="bolts")[0].problems == []


@pytest.mark.skipif(os.name != "posix", reason="users and their rights are those of POSIX")
def test_a_folder_that_may_not_be_read_is_no_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lost+found on a disk whose top holds the categories; root may read everything, so the answer is that of another user."""
    for place in ("gear/train/good/xyz", "lost+found/train/good/xyz"):
        (tmp_path / place).mkdir(parents=True)
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "lost" not in str(path) and readable(path, mode))
    assert reader_for("mvtec3d").categories(tmp_path) == ["gear"]


def test_more_than_a_shard_can_hold_is_told_before_anything_is_read(tmp_path: Path) -> None:
    views = [f"view_{k}" for k in range(22)]
    source = CategorySource("folder", "c", "", {}, views, 2048, [])
    with pytest.raises(BadInput, match="folder/c: 22 views of 2048 pixels are more than a shard can hold; give a smaller --size"):
        pack_category(source, tmp_path / "shards", PackOptions(size=2048), Silent())
    assert not list(tmp_path.glob("shards/**/*.h5"))


# --------------------------------------------------------------------------------------------------------------- places


def test_real_iads_pictures_are_those_of_the_category_and_size(tmp_path: Path) -> None:
    for place in ("realiad_256/audiojack", "realiad_1024/audiojack", "realiad_1024/zipper", "realiad_512"):
        (tmp_path / place).mkdir(parents=True)

    def name(category: str, size: int) -> str:
        root = realiad.image_root(tmp_path, category, size)
        return "" if root is None else root.name

    assert [name("audiojack", size) for size in (0, 256, 512, 2048)] == [
        "realiad_256",
        "realiad_256",
        "realiad_1024",
        "realiad_1024",
    ]
    assert name("zipper", 256) == "realiad_1024"
    assert name("lost", 256) == "realiad_256"
    assert realiad.image_root(tmp_path / "realiad_512", "zipper") is None


def test_a_run_that_is_named_from_within_has_its_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shards").mkdir()
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    for folder, named in ((run.parent, "r"), (run, "."), (tmp_path, "runs/r")):
        monkeypatch.chdir(folder)
        assert workspace_of(Path(named)).root == tmp_path
