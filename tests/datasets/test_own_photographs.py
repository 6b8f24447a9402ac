"""Folders of own photographs: layouts, splits, any kind of picture, crops, what is wrong with them."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from command import mvad
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from mvad.datasets.photographs.arriving import find_new
from mvad.datasets.photographs.category import FolderOptions, category_source, check_sound, find
from mvad.datasets.photographs.crop import object_box, window_of
from mvad.datasets.photographs.layouts import Layout
from mvad.datasets.photographs.pattern import expression, find_by_pattern
from mvad.datasets.photographs.pictures import read_header, read_picture
from mvad.datasets.photographs.placing import ViewFrame, place
from mvad.datasets.photographs.sample import read_part
from mvad.datasets.photographs.table import find_in_table
from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_category
from mvad.datasets.shards.schema import PICTURES
from mvad.errors import BadInput
from mvad.model.detector import AnomalyMaps
from mvad.model.evaluation.evaluate import TrainedOn, at_pixels, evaluate_split, shown_at_pixels
from mvad.model.exchange.adeval import ANOMAPS, AdevalWriter
from mvad.model.runs import RunRecord
from mvad.progress import Silent

WIDTH, HEIGHT = 48, 32
VIEWS = ("C1", "C9", "C10")


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, values: NDArray[np.generic], **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **more)
    return path


def tree(root: Path, train: int = 5, views: tuple[str, ...] = VIEWS) -> Path:
    """Good parts, two good test parts, and two with a defect, of which one has a mask of one view."""
    folders = [f"train/good/p {k}" for k in range(train)] + [f"test/good/g{k}" for k in range(2)]
    for number, folder in enumerate([*folders, "test/scratch (deep)/s0", "test/scratch (deep)/s1"]):
        for k, view in enumerate(views):
            save(root / folder / f"{view}.png", picture(10 * number + k))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:9, 20:30] = 255
    save(root / "test/scratch (deep)/s0" / f"{views[1]}_mask.png", mask)
    return root


def listing(root: Path, **options: object):  # type: ignore[no-untyped-def]
    (found,) = find(root, FolderOptions(**options))  # type: ignore[arg-type]
    return found


def packed(root: Path, shards: Path, size: int = 32, **options: object) -> Path:
    wanted = FolderOptions(size=size, **options)  # type: ignore[arg-type]
    (found,) = find(root, wanted)
    check_sound(found)
    return pack_category(category_source(found, wanted), shards, PackOptions(size=size), Silent()).parent


def test_the_tree_is_read_with_natural_order_of_views_and_labels_per_view(tmp_path: Path) -> None:
    folder = packed(tree(tmp_path / "parts"), tmp_path / "shards", validation=0.4)
    data = ShardSet(folder, "test")
    assert data.views == ["C1", "C9", "C10"]
    assert data.defects == ["good", "good", "scratch (deep)", "scratch (deep)"]
    labels = data.batch(range(4)).view_label.tolist()
    assert labels[2] == [False, True, False], "only the view with a mask shows the defect"
    assert labels[3] == [True, True, True], "without any mask, every view is taken as showing it"
    assert data.labels.tolist() == [False, False, True, True]
    assert len(ShardSet(folder, "train")) == 3
    assert len(ShardSet(folder, "validation")) == 2
    notes = json.loads((folder / "manifest.json").read_text())["notes"]
    assert any(note["note"].startswith("no mask;") and note["first"].endswith("s1") for note in notes)


def test_a_picture_is_padded_and_its_padding_is_not_seen(tmp_path: Path) -> None:
    """48 x 32 pixels become 24 x 16 in the middle of 24 x 24."""
    data = ShardSet(packed(tree(tmp_path / "parts"), tmp_path / "shards", size=24), "test")
    batch = data.batch([2])
    assert batch.rgb is not None
    seen = batch.seen[0, 0].numpy()
    assert seen[4:20].all()
    assert not seen[:4].any()
    assert not seen[20:].any()
    original = np.asarray(Image.open(tmp_path / "parts/test/scratch (deep)/s0/C1.png")).astype(float)
    means = original.reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(batch.rgb[0, 0, 4:20].numpy() - means).max() <= 1
    mask = batch.mask[0, 1].numpy()
    assert np.argwhere(mask).min(axis=0).tolist() == [4 + 2, 10]
    assert np.argwhere(mask).max(axis=0).tolist() == [4 + 3, 14], "rows 4 to 8: the centre of row 4 of the view is 9"


def test_pixels_beside_the_picture_are_in_no_figure(tmp_path: Path) -> None:
    """Rows 43 to 212 of 256 show a picture of 48 x 32: what is beside it would be easy normal pixels."""
    data = ShardSet(packed(tree(tmp_path / "parts"), tmp_path / "shards"), "test")
    random = torch.Generator().manual_seed(0)
    inside, everywhere = (
        list[tuple[NDArray[np.float32], NDArray[np.bool_]]](),
        list[tuple[NDArray[np.float32], NDArray[np.bool_]]](),
    )

    def answer(batch: Batch) -> AnomalyMaps:
        maps = torch.where(batch.seen, batch.mask.float() + 2 * torch.rand(batch.mask.shape, generator=random), -9.0)
        found = AnomalyMaps(maps, maps.amax(dim=(2, 3)), maps.amax(dim=(1, 2, 3)))
        known = [k for k in range(3) if batch.mask[0, k].any() or not batch.view_label[0, k]]
        whole = [planes[known] for planes in at_pixels(batch, found)]
        everywhere.append((whole[0], whole[1]))
        inside.append((whole[0][:, 43:213], whole[1][:, 43:213]))
        return found

    record = RunRecord(
        "folder", "parts", {"model": "oracle", "seed": 0, "input.modalities": ["rgb"], "input.size": 32}, {}, "", "", {}
    )
    writer = AdevalWriter(tmp_path / "adeval", shown_at_pixels(data.config[PICTURES]))
    figures = evaluate_split(tmp_path / "run", data, answer, record, TrainedOn(), Silent(), callbacks=[writer]).figures

    def auroc(parts: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> float:
        scores, truth = (np.concatenate([part[which].ravel() for part in parts]) for which in (0, 1))
        return float(roc_auc_score(truth, scores))

    assert figures["p_auroc"] == pytest.approx(auroc(inside), abs=1e-6)
    assert auroc(everywhere) > figures["p_auroc"] + 0.01
    exported = pickle.loads((tmp_path / "adeval" / ANOMAPS).read_bytes())
    assert {values.shape for values, _, _ in exported.values()} == {(170, 256)}
    (masked,) = [path for _, _, path in exported.values() if path]
    assert imagecodecs.png_decode(Path(masked).read_bytes()).shape == (170, 256)
    said: list[str] = []
    told = AdevalWriter(tmp_path / "told", shown_at_pixels(data.config[PICTURES]), said.append)
    evaluate_split(tmp_path / "again", data, answer, record, TrainedOn(), Silent(), callbacks=[told])
    (line,) = said
    assert "with a defect that no mask marks left out" in line
    whole = pickle.loads((tmp_path / "told" / ANOMAPS).read_bytes())
    assert 0 < len(whole) < len(exported)
    assert whole.keys() < exported.keys()


def test_square_pictures_have_no_field_seen(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "parts/train/good" / f"p{k}" / "top.png", picture(k, 32, 32))
    data = ShardSet(packed(tmp_path / "parts", tmp_path / "shards"), "train")
    assert "seen" not in json.loads((tmp_path / "shards/folder/parts/manifest.json").read_text())["shards"][0]["fields"]
    assert bool(data.batch([0]).seen.all())


def test_one_picture_per_part_and_masks_beside_the_splits(tmp_path: Path) -> None:
    """The layout of MVTec AD."""
    root = tmp_path / "bottle"
    for k in range(4):
        save(root / "train/good" / f"{k:03d}.png", picture(k))
    save(root / "test/broken/000.png", picture(9))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:12, 3:20] = 255
    save(root / "ground_truth/broken/000_mask.png", mask)
    batch = ShardSet(packed(root, tmp_path / "shards"), "test").batch([0])
    assert batch.mask.shape[1] == 1
    assert bool(batch.mask.any())


def test_without_splits_good_parts_are_divided_and_defects_are_tested_on(tmp_path: Path) -> None:
    for k in range(10):
        save(tmp_path / "parts/ok" / f"p{k}" / "a.png", picture(k))
    save(tmp_path / "parts/dirt/d0/a.png", picture(50))
    found = listing(tmp_path / "parts", validation=0.25, test=0.2)
    assert found.listing.problems == []
    by_split = {split: [s.defect for s in found.samples if s.split == split] for split in ("train", "validation", "test")}
    assert [len(of) for of in by_split.values()] == [6, 2, 3]
    assert sorted(by_split["test"]) == ["dirt", "good", "good"]
    assert any("ok read as good" in note for note in found.listing.notes)


def test_good_parts_alone_are_enough(tmp_path: Path) -> None:
    for k in range(5):
        save(tmp_path / "parts/good" / f"p{k}" / "a.png", picture(k))
    found = listing(tmp_path / "parts")
    assert {s.split for s in found.samples} == {"train", "validation"}


def test_groups_are_never_divided(tmp_path: Path) -> None:
    for k in range(12):
        save(tmp_path / "parts/good" / f"lot{k // 3}_{k}" / "a.png", picture(k))
    save(tmp_path / "parts/bad/x_0/a.png", picture(50))
    found = listing(tmp_path / "parts", layout=Layout(group=r"(lot\d+)_"), validation=0.3, test=0.25)
    splits: dict[str, set[str]] = {}
    for sample in found.samples:
        if sample.group:
            splits.setdefault(sample.group, set()).add(sample.split)
    assert len(splits) == 4
    assert all(len(of) == 1 for of in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_splits_do_not_depend_on_the_order_or_the_place_of_the_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for k in range(9) if name == "one" else reversed(range(9)):
            save(tmp_path / name / "parts/good" / f"p{k}" / "a.png", picture(k))
    one, two = ([(s.split, s.id) for s in listing(tmp_path / name / "parts").samples] for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    "pattern",
    [r"(?P<defect>[a-z]+)_(?P<sample>.+)_(?P<view>C\d+)\.jpg", "{defect}_{sample}_{view}.jpg"],
)
def test_flat_names_follow_a_pattern(tmp_path: Path, pattern: str) -> None:
    for k in range(6):
        for view in VIEWS:
            save(tmp_path / "flat" / f"good_a_{k}_{view}.jpg", picture(k))
    save(tmp_path / "flat" / "dent_a_9_C1.jpg", picture(1))
    save(tmp_path / "flat" / "dent_a_9_C1_mask.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    found = listing(tmp_path / "flat", layout=Layout(pattern=pattern), test=0.2)
    assert found.listing.problems == []
    dent = next(s for s in found.samples if s.defect == "dent")
    assert (dent.id, dent.split, [v.camera for v in dent.views]) == ("a_9", "test", ["C1"])
    assert dent.views[0].mask is not None
    good = [s for s in found.samples if s.defect == "good"]
    assert [v.camera for v in good[0].views] == ["C1", "C9", "C10"]
    assert {s.split for s in good} == {"train", "validation", "test"}


def test_what_does_not_match_the_pattern_is_told(tmp_path: Path) -> None:
    save(tmp_path / "flat/a_C1.jpg", picture())
    save(tmp_path / "flat/overview.jpg", picture())
    found = listing(tmp_path / "flat", layout=Layout(pattern="{sample}_{view}.jpg"))
    assert len(found.listing.problems) == 1
    assert "overview.jpg: 1 picture does not match" in found.listing.problems[0]


def test_a_part_with_two_pictures_of_one_view_is_left_out_and_told(tmp_path: Path) -> None:
    for name in ("a_C1", "b_C1"):
        save(tmp_path / "flat/one" / f"{name}.png", picture())
    save(tmp_path / "flat/two/a_C1.png", picture())
    found = listing(tmp_path / "flat", layout=Layout(pattern="{sample}_{view}.png"))
    assert [sample.id for sample in found.samples] == ["b"]
    assert "is view C1 of a, too" in found.listing.problems[0]
    arrived = find_new(tmp_path / "flat", "flat", "folder", Layout(pattern="{sample}_{view}.png"), ["C1"])
    assert {sample.id: bool(sample.fault) for sample in arrived.samples} == {"a": True, "b": False}


@pytest.mark.parametrize("pattern", ["{sample}.jpg", "(?P<sample>.+", "{sample}_{camera}.jpg"])
def test_a_wrong_pattern_is_one_line(pattern: str) -> None:
    with pytest.raises(BadInput, match="--pattern"):
        expression(pattern)


def table_rows() -> list[dict[str, str]]:
    rows = [
        {"sample": f"p{k}", "view": view, "split": "train", "defect": "", "image": f"img/{k}{view}.png", "group": f"g{k // 2}"}
        for k in range(4)
        for view in ("left", "right")
    ]
    rows.append(
        {"sample": "x", "view": "left", "split": "test", "defect": "crack", "image": "img/xleft.png", "mask": "img/m.png"}
    )
    return rows


@pytest.mark.parametrize("kind", ["csv", "semicolons", "jsonl", "pyimgano"])
def test_a_table_names_the_pictures(tmp_path: Path, kind: str) -> None:
    rows = table_rows()
    for row in rows:
        save(tmp_path / row["image"], picture())
    save(tmp_path / "img/m.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    path = tmp_path / ("t.csv" if kind in ("csv", "semicolons") else "t.jsonl")
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "pyimgano":
        lines = [
            {
                "group_id": r["sample"], "image_path": r["image"], "split": r["split"], "mask_path": r.get("mask"),
                "meta": {"view_id": r["view"], "condition": r["defect"] or "good"},
            }
            for r in rows
        ]  # fmt: skip
        path.write_text("\n".join(map(json.dumps, lines)))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, [*list(rows[-1]), "group"], delimiter=";" if kind == "semicolons" else ",")
            writer.writeheader()
            writer.writerows(rows)
    found = listing(tmp_path, table=path, category="things", validation=0.25)
    assert found.listing.problems == []
    crack = next(s for s in found.samples if s.defect == "crack")
    assert (crack.key, crack.views[0].mask) == ("things/test/crack/x", tmp_path / "img/m.png")
    assert sum(s.split == "validation" for s in found.samples) == (1 if kind == "pyimgano" else 2), "groups of two stay together"
    assert [v.camera for v in found.samples[-1].views] == ["left", "right"]


def test_everything_wrong_in_a_table_is_listed_at_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    rows = [
        "sample,view,split,defect,image",
        "p0,left,train,,a.png",
        "p0,left,train,,a.png",
        "p1,left,train,crack,a.png",
        "p2,left,nowhere,,a.png",
        "p3,left,train,,missing.png",
        ",left,train,,a.png",
        "p0,right,test,,a.png",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    problems = listing(tmp_path, table=tmp_path / "t.csv").listing.problems
    for number, words in (
        (3, "listed twice"),
        (4, "good parts only"),
        (5, "none of train"),
        (6, "not found"),
        (7, "expected sample"),
        (8, "another row"),
    ):
        assert any(f"line {number}:" in problem and words in problem for problem in problems), (number, problems)


def test_a_montage_is_cut_into_its_views(tmp_path: Path) -> None:
    """Three views of 16 x 16 side by side, of the picture and of its mask."""
    values = np.concatenate([np.full((16, 16, 3), 60 * k + 40, np.uint8) for k in range(3)], axis=1)
    for k in range(3):
        save(tmp_path / "seeds/train/good" / f"{k}.png", values)
    save(tmp_path / "seeds/test/mould/7.png", values)
    mask = np.zeros((16, 48), np.uint8)
    mask[4:8, 20:24] = 255
    save(tmp_path / "seeds/ground_truth/mould/7.png", mask)
    folder = packed(tmp_path / "seeds", tmp_path / "shards", size=32, layout=Layout(montage=(3, 1)))
    data = ShardSet(folder, "test")
    batch = data.batch([0])
    assert batch.rgb is not None
    assert data.views == ["view_1", "view_2", "view_3"]
    assert batch.rgb[0, :, 16, 16, 0].tolist() == [40, 100, 160]
    assert batch.view_label.tolist() == [[False, True, False]]
    assert np.argwhere(batch.mask[0, 1].numpy()).min(axis=0).tolist() == [8, 8]


def odd_pictures(folder: Path) -> dict[str, Path]:
    """The sorts of pictures that cameras and people make, all of one scene."""
    scene = picture(3)
    grey, alpha = scene[..., 0], np.dstack([scene, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    hole = alpha.copy()
    hole[:8, :8, 3] = 0
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(np.ascontiguousarray(scene.swapaxes(0, 1)[::-1]))  # which orientation 6 turns upright
    folder.mkdir(parents=True, exist_ok=True)
    turned.save(folder / "exif.png", exif=exif)
    (folder / "rgb16.png").write_bytes(imagecodecs.png_encode(scene.astype(np.uint16) * 257))
    (folder / "grey12.png").write_bytes(imagecodecs.png_encode(grey.astype(np.uint16) * 16))
    tifffile.imwrite(folder / "rgb8.tif", scene, photometric="rgb")
    tifffile.imwrite(
        folder / "planar.tif", np.ascontiguousarray(np.moveaxis(scene, 2, 0)), photometric="rgb", planarconfig="separate"
    )
    tifffile.imwrite(folder / "grey16.tiff", grey.astype(np.uint16) * 257)
    return {
        "grey": save(folder / "grey.png", grey),
        "grey of 12 bits": folder / "grey12.png",
        "grey TIFF of 16 bits": folder / "grey16.tiff",
        "RGB of 16 bits": folder / "rgb16.png",
        "opaque alpha": save(folder / "alpha.png", alpha),
        "transparent corner": save(folder / "hole.png", hole),
        "palette": save(folder / "palette.png", np.asarray(scene // 64 * 64)) and _palette(folder, scene),
        "BMP": save(folder / "b.BMP", scene),
        "TIFF": folder / "rgb8.tif",
        "planar TIFF": folder / "planar.tif",
        "EXIF": folder / "exif.png",
        "WebP": save(folder / "w.webp", scene, lossless=True),
    }


def _palette(folder: Path, scene: NDArray[np.uint8]) -> Path:
    Image.fromarray(scene // 128 * 128).quantize(8).save(folder / "p.png")
    return folder / "p.png"


def test_odd_pictures_are_read_as_what_they_show(tmp_path: Path) -> None:
    scene = picture(3)
    grey = np.repeat(scene[..., :1], 3, axis=2)
    for kind, path in odd_pictures(tmp_path).items():
        found, header = read_picture(path), read_header(path)
        assert (header.height, header.width) == found.rgb.shape[:2] == (HEIGHT, WIDTH), kind
        expected = grey if "grey" in kind else scene // 128 * 128 if kind == "palette" else scene
        close = 1 if "12" in kind else 0
        assert np.abs(found.rgb.astype(int) - expected).max() <= close, kind
        assert (found.seen is not None) == (kind == "transparent corner"), kind
    assert not read_picture(tmp_path / "hole.png").seen[:8, :8].any()  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("cmyk.jpg", lambda path: Image.new("CMYK", (8, 8)).save(path)),
        ("float.tif", lambda path: tifffile.imwrite(path, np.zeros((8, 8), np.float32))),
        ("pages.tif", lambda path: tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack")),
        ("empty.png", lambda path: path.write_bytes(b"")),
        ("page.png", lambda path: path.write_text("<!doctype html><title>login</title>")),
        ("half.jpg", lambda path: path.write_bytes(bytes(imagecodecs.jpeg_encode(picture()))[:300])),
        ("half.tif", lambda path: (tifffile.imwrite(path, picture()), path.write_bytes(path.read_bytes()[:400]))),
        ("bands.tif", lambda path: tifffile.imwrite(path, np.zeros((8, 8, 7), np.uint8), photometric="minisblack", planarconfig="contig")),
        ("huge.png", lambda path: path.write_bytes(_huge())),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    write(tmp_path / name)
    with pytest.raises(BadInput) as caught:
        read_picture(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message
    assert ";" in message, "the remedy"


def _huge() -> bytes:
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_sixteen_bits_are_scaled_alike_in_all_pictures_of_a_view(tmp_path: Path) -> None:
    """A dark part of a 12-bit camera must stay dark: the level is one of the view's training pictures, not of each picture."""
    for k in range(3):
        folder = tmp_path / "parts/train/good" / f"p{k}"
        folder.mkdir(parents=True)
        bright = np.full((16, 16), 4000 if k == 0 else 800, np.uint16)
        (folder / "a.png").write_bytes(imagecodecs.png_encode(bright))
    data = ShardSet(packed(tmp_path / "parts", tmp_path / "shards", validation=0.0), "train")
    levels = data.batch(range(3)).rgb[:, 0, 8, 8, 0].tolist()  # type: ignore[index]
    assert levels == [249, 50, 50]


def test_depth_and_normals_beside_the_pictures_are_packed(tmp_path: Path) -> None:
    depth = np.linspace(200, 300, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    depth[0, 0] = 0
    for k in range(3):
        folder = tmp_path / "parts/train/good" / f"p{k}"
        save(folder / "top.png", picture(k))
        tifffile.imwrite(folder / "top_depth.tiff", depth)
        save(folder / "top_normal.png", np.full((HEIGHT, WIDTH, 3), (128, 128, 255), np.uint8))
    data = ShardSet(packed(tmp_path / "parts", tmp_path / "shards", size=48, unit="mm"), "train")
    batch = data.batch([0])
    assert data.stored == ["rgb", "depth", "normal"]
    assert batch.depth is not None
    shown = batch.depth[0, 0, 8:40].numpy()
    assert np.abs(shown.ravel()[1:] - depth.ravel()[1:] / 1000).max() < 1e-5
    beside = (depth[0, 1] / 1000, depth[1, 0] / 1000)
    assert np.abs(np.array(beside) - shown[0, 0]).min() < 1e-5, "a hole takes the nearest depth"
    assert batch.normal is not None
    assert batch.normal[0, 0, 20, 20].tolist() == [128, 128, 255]
    assert not batch.normal[0, 0, 0].any()


def plain(left: int, top: int) -> NDArray[np.uint8]:
    values = np.full((90, 120, 3), 190, np.uint8) + np.random.default_rng(left).integers(-3, 4, (90, 120, 3)).astype(
        np.int8
    ).view(np.uint8)
    values[top : top + 20, left : left + 30] = (200, 40, 30)
    return values


def test_crop_auto_takes_one_window_for_all_parts_of_a_view(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "parts/train/good" / f"p{k}" / "a.png", plain(40 + 2 * k, 30))
        save(tmp_path / "parts/train/good" / f"p{k}" / "b.png", picture(k, 120, 90))
    save(tmp_path / "parts/test/moved/m/a.png", plain(44, 34))
    wanted = FolderOptions(size=64, crop="auto", validation=0.0)
    (found,) = find(tmp_path / "parts", wanted)
    source = category_source(found, wanted)
    frames = source.config["pictures"]["framing"]["views"]
    left, top, right, bottom = frames["a"]["window"]
    assert right - left == pytest.approx(bottom - top) == pytest.approx(36 * 1.08, abs=2)
    assert left <= 40 < 76 <= right
    assert frames["b"]["window"] == [0, -15, 120, 105], "no plain background: the whole picture"
    assert any("view b: not cropped" in note["note"] for note in source.notes)
    moved = read_part(next(s for s in found.samples if s.defect == "moved"), source_framing(source.config))
    place_of = moved.places["a"].picture_place
    rows, columns = np.nonzero(moved.sample.rgb[0, ..., 0].astype(int) - moved.sample.rgb[0, ..., 1] > 100)  # type: ignore[index]
    assert place_of(rows.min(), columns.min()) == pytest.approx((34, 44), abs=1), "the way back to the picture"
    assert place_of(rows.max(), columns.max()) == pytest.approx((53, 73), abs=1)


def source_framing(config: dict[str, object]):  # type: ignore[no-untyped-def]
    from mvad.datasets.photographs.category import Photographs

    recorded = Photographs.recorded("folder", "parts", json.loads(json.dumps(config, sort_keys=True)))
    assert recorded is not None
    return recorded.framing


def test_an_object_is_not_found_where_the_background_is_not_plain() -> None:
    assert object_box(picture(1, 80, 60)) is None
    assert object_box(np.full((60, 80, 3), 90, np.uint8)) is None
    assert window_of([None, None], 80, 60) == (None, "an object on a plain background was found in 0 of 2 pictures")
    assert window_of([(0.0, 0.0, 79.0, 60.0)], 80, 60)[0] is None


@pytest.mark.parametrize(("width", "height"), [(48, 32), (96, 64), (24, 16)])
def test_a_picture_of_another_size_but_the_same_proportions_is_placed_alike(width: int, height: int) -> None:
    placed = place(Path("a.png"), ViewFrame.whole(WIDTH, HEIGHT), width, height, 24)
    assert placed.target == (0, 4, 24, 20)
    scale = width / WIDTH
    assert placed.picture_place(4 + 8, 10) == (int(8.5 * 2 * scale), int(10.5 * 2 * scale))


def test_a_picture_of_other_proportions_is_refused() -> None:
    with pytest.raises(BadInput, match="40 x 40 pixels, the pictures of this view have 48 x 32"):
        place(Path("a.png"), ViewFrame.whole(WIDTH, HEIGHT), 40, 40, 24)


WRONG = {
    "a defect among training parts": lambda root: save(root / "train/scratch/s/C1.png", picture()),
    "two folders of good parts": lambda root: save(root / "train/OK/s/C1.png", picture()),
    "a picture beside the parts": lambda root: save(root / "train/good/loose.png", picture()),
    "two pictures of one view": lambda root: save(root / "train/good/p 0/C1.jpg", picture()),
    "a mask without a picture": lambda root: save(root / "test/good/g0/C7_mask.png", picture()[..., 0]),
    "a folder that is no split": lambda root: save(root / "extra/s/C1.png", picture()),
    "two folders of one split": lambda root: (
        save(root / "val/good/s/C1.png", picture()) and save(root / "valid/good/s/C1.png", picture())
    ),
    "a folder in a part": lambda root: save(root / "train/good/p 0/more/C1.png", picture()),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_leaves_a_choice_is_a_problem_that_names_the_place(tmp_path: Path, fault: str) -> None:
    root = tree(tmp_path / "parts")
    assert listing(root).listing.problems == []
    WRONG[fault](root)
    found = listing(root)
    assert found.listing.problems, fault
    assert str(root) in found.listing.problems[0]
    with pytest.raises(BadInput):
        check_sound(found)


def test_hidden_files_and_texts_are_no_data(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    before = [(s.key, [v.image for v in s.views]) for s in listing(root).samples]
    for name in ("train/good/p 0/._C1.png", "train/good/.ipynb_checkpoints/C1.png", "train/good/p 0/notes.txt", ".DS_Store"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert [(s.key, [v.image for v in s.views]) for s in listing(root).samples] == before


def test_a_mask_of_a_good_part_that_marks_something_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    save(root / "test/good/g0/C1_mask.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    wanted = FolderOptions(size=32)
    (found,) = find(root, wanted)
    folder = pack_category(category_source(found, wanted), tmp_path / "shards", PackOptions(size=32), Silent()).parent
    missing = json.loads((folder / "manifest.json").read_text())["missing"]
    assert [entry["key"] for entry in missing] == ["parts/test/good/g0"]
    assert "labelled good" in missing[0]["reason"]


def test_parts_may_lack_views(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    (root / "test/good/g0/C9.png").unlink()
    data = ShardSet(packed(root, tmp_path / "shards"), "test")
    assert data.present[0].tolist() == [True, False, True]
    assert not data.batch([0]).seen[0, 1].any()


def test_the_command_lists_everything_wrong_and_packs_the_rest_on_request(tmp_path: Path) -> None:
    root = tree(tmp_path / "my parts", train=6)
    save(root / "train/scratch/s/C1.png", picture())
    (root / "test/good/g0/C1.png").write_bytes(b"no picture")
    (root / "test/good/g1/C1.png").write_bytes(b"")
    place_of = ("--workspace", str(tmp_path / "w"))
    dry = mvad("pack", "folder", str(root), "--dry-run", *place_of)
    assert dry.returncode == 3
    assert sum(line.startswith("problem: ") for line in dry.stderr.splitlines()) == 3, dry.stderr
    assert "scratch (deep)" in dry.stdout
    assert not (tmp_path / "w").exists()
    refused = mvad("pack", "folder", str(root), *place_of)
    assert refused.returncode == 3
    assert "train takes good parts only" in refused.stderr.splitlines()[-1]
    taken = mvad("pack", "folder", str(root), "--partial", "--name", "mine", "--licence", "ours", "--size", "64", *place_of)
    assert taken.returncode == 0, taken.stderr
    manifest = json.loads((tmp_path / "w/shards/mine/my parts/manifest.json").read_text())
    assert (manifest["dataset"], manifest["licence"]) == ("mine", "ours")
    assert len(manifest["missing"]) == 3
    again = mvad("pack", "folder", str(root), "--partial", "--name", "mine", "--licence", "ours", "--size", "64", *place_of)
    assert again.returncode == 0, again.stderr


def test_the_same_command_again_keeps_the_same_bytes_and_any_number_of_jobs_gives_them(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    for jobs in ("1", "3"):
        done = mvad("pack", "folder", str(root), "--size", "64", "--jobs", jobs, "--workspace", str(tmp_path / jobs))
        assert done.returncode == 0, done.stderr
    one, three = (sorted((tmp_path / jobs / "shards/folder/parts").glob("*.*")) for jobs in ("1", "3"))
    assert [path.name for path in one] == [path.name for path in three]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, three, strict=True))


def test_names_and_masks_as_people_have_them(tmp_path: Path) -> None:
    """Umlauts, brackets, glob characters, upper-case endings, links into a cache; masks as JPEG, of class numbers, of half the size."""
    root, cache = tmp_path / "Mä[1] *?" / "Größe (2)", tmp_path / "cache"
    for k in range(3):
        blob = save(cache / f"{k}", picture(k), format="PNG")
        link = root / "train/good" / f"Teil [{k}] ü" / "Oben 1.PNG"
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
    marks = np.zeros((HEIGHT, WIDTH), np.uint8)
    marks[8:16, 12:24] = 255
    soft = Image.fromarray(marks).resize((WIDTH, HEIGHT))
    for name, mask, ending in (
        ("jpeg", np.asarray(soft), "JPG"), ("classes", marks // 255 * 2, "png"), ("almost white", marks // 255 * 253, "bmp"), ("half", marks[::2, ::2], "png"),
    ):  # fmt: skip
        save(root / "test/Kratzer #1" / name / "Oben 1.PNG", picture(7))
        save(root / "test/Kratzer #1" / name / f"Oben 1_mask.{ending}", mask)
    done = mvad("pack", "folder", str(root), "--category", "M3DM w/o", "--size", "48", "--workspace", str(tmp_path / "w"))
    assert done.returncode == 0, done.stderr
    data = ShardSet(tmp_path / "w/shards/folder/M3DM w-o", "test")
    assert data.keys[0].startswith("M3DM w-o/test/Kratzer #1/")
    expected = np.zeros((48, 48), bool)
    expected[16:24, 12:24] = True
    for row, key in enumerate(data.keys):
        found = data.batch([row]).mask[0, 0].numpy() > 0
        assert (found & expected).sum() >= 0.9 * expected.sum(), key
        assert (found & ~expected).sum() <= 0.3 * expected.sum(), key
    assert len(ShardSet(tmp_path / "w/shards/folder/M3DM w-o", "train")) >= 2


def test_the_place_in_a_montage_is_that_of_the_whole_picture(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "seeds/good" / f"{k}.png", picture(k, 120, 80))
    wanted = FolderOptions(size=40, layout=Layout(montage=(3, 2)))
    (found,) = find(tmp_path / "seeds", wanted)
    source = category_source(found, wanted)
    part = read_part(found.samples[0], source_framing(source.config))
    assert part.places["view_1"].picture_place(10, 20) == (10, 20)
    assert part.places["view_3"].picture_place(10, 20) == (10, 100)
    assert part.places["view_5"].picture_place(10, 20) == (50, 60)


def test_a_defect_named_unknown_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    save(root / "test/unknown/q/C1.png", picture())
    assert "unknown says nothing of the part" in listing(root).listing.problems[0]
    assert not any(sample.defect == "unknown" for sample in listing(root).samples)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("train/good/p1_a.png", "test/scratch/p2_a.png", "test/good/p3_a.png"),
            [("good", "train"), ("good", "test"), ("scratch", "test")],
        ),
        (("good/p1_a.png", "scratch/p2_a.png"), [("good", ""), ("scratch", "")]),
        (("monday/p1_a.png", "tuesday/p2_a.png"), [("good", ""), ("good", "")]),
        (("train/p1_a.png", "test/dent/p2_a.png"), [("good", "train"), ("dent", "test")]),
    ],
)
def test_a_pattern_without_labels_takes_them_from_the_folders(
    tmp_path: Path, names: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    for name in names:
        save(tmp_path / "flat" / name, picture())
    found = find_by_pattern(tmp_path / "flat", "folder", "flat", Layout(pattern="{sample}_{view}.png"))
    assert sorted((sample.defect, sample.split) for sample in found.samples) == sorted(expected)
    assert found.problems == []


def test_a_pattern_with_wrong_labels_is_told(tmp_path: Path) -> None:
    for name in ("holdout/good/p1_a.png", "train/scratch/p2_a.png", "train/good/p3_a.png"):
        save(tmp_path / "flat" / name, picture())
    found = find_by_pattern(tmp_path / "flat", "folder", "flat", Layout(pattern="{split}/{defect}/{sample}_{view}.png"))
    assert [sample.id for sample in found.samples] == ["p3"]
    assert "the split holdout is none of" in found.problems[0]
    assert "train takes good parts only" in found.problems[1]


def test_good_parts_of_a_group_with_a_defect_are_tested_on(tmp_path: Path) -> None:
    for k in range(20):
        save(tmp_path / "parts/good" / f"lot{k // 2}_{k}" / "a.png", picture(k))
    save(tmp_path / "parts/bad/lot3_x/a.png", picture(50))
    found = listing(tmp_path / "parts", layout=Layout(group=r"(lot\d+)_"), test=0.2)
    assert found.listing.problems == []
    assert {sample.split for sample in found.samples if sample.group == "lot3"} == {"test"}
    assert {sample.split for sample in found.samples} == {"train", "validation", "test"}


def test_parts_of_a_divided_group_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for name in ("train/good/lot1_a", "train/good/lot2_a", "train/good/lot3_a", "test/bad/lot1_b"):
        save(root / name / "a.png", picture())
    found = listing(root, layout=Layout(group=r"(lot\d+)_"), validation=0.0)
    assert "the group lot1 is in test and train" in found.listing.problems[0]
    assert sorted(sample.id for sample in found.samples) == ["lot2_a", "lot3_a"]


def test_a_prefix_is_taken_off_only_where_every_picture_has_it(tmp_path: Path) -> None:
    save(tmp_path / "parts/good/p7/C1.png", picture(1))
    save(tmp_path / "parts/good/p7/p7_C1.png", picture(2))
    save(tmp_path / "parts/good/p8/p8_C1.png", picture(3))
    views = {sample.id: [view.camera for view in sample.views] for sample in listing(tmp_path / "parts").samples}
    assert views == {"p7": ["C1", "p7_C1"], "p8": ["C1"]}


def test_sixteen_bits_in_a_view_of_eight_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "parts")
    (root / "test/good/g0/C1.png").write_bytes(imagecodecs.png_encode(picture().astype(np.uint16) * 100))
    wanted = FolderOptions(size=32)
    (found,) = find(root, wanted)
    framing = source_framing(category_source(found, wanted).config)
    with pytest.raises(BadInput, match="has 16 bits a channel"):
        read_part(next(sample for sample in found.samples if sample.id == "g0"), framing)


def test_a_line_scan_can_be_cropped(tmp_path: Path) -> None:
    save(tmp_path / "parts/good/a/x.png", np.full((2, 4000, 3), 90, np.uint8))
    wanted = FolderOptions(size=32, crop="auto")
    (found,) = find(tmp_path / "parts", wanted)
    assert "not cropped" in category_source(found, wanted).notes[-1]["note"]


def test_a_number_in_a_table_of_json_lines_is_a_name(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    (tmp_path / "t.jsonl").write_text('{"sample": 0, "view": 0, "image": "a.png"}')
    (sample,) = find_in_table(tmp_path / "t.jsonl", tmp_path, "folder", "c", Layout()).samples
    assert (sample.id, sample.views[0].camera) == ("0", "0")


def test_linked_folders_are_found_and_a_link_back_ends(tmp_path: Path) -> None:
    put = save(tmp_path / "elsewhere/p1/a.png", picture())
    (tmp_path / "new").mkdir()
    (tmp_path / "new/p1").symlink_to(put.parent)
    (tmp_path / "new/loop").symlink_to(tmp_path / "new")
    assert [sample.id for sample in find_new(tmp_path / "new", "c", "folder", Layout(), ["a"]).samples] == ["p1"]


def test_parts_of_one_name_in_two_splits_are_two_parts(tmp_path: Path) -> None:
    for k in range(5):
        save(tmp_path / "parts/train/good" / f"{k}" / "a.png", picture(k))
        save(tmp_path / "parts/test/good" / f"{k}" / "a.png", picture(k + 50))
    found = listing(tmp_path / "parts", validation=0.4)
    assert [sum(s.split == split for s in found.samples) for split in ("train", "validation", "test")] == [3, 2, 5]


def test_parts_below_a_decided_folder_are_found(tmp_path: Path) -> None:
    """A picture that was dropped beside the parts' folders makes a part of the folder above them, which is decided some day."""
    for name in ("lot7/label", "lot7/p1/a", "lot7/p2/a", "lot7/p2/inner/a"):
        save(tmp_path / f"{name}.png", picture())

    def found(*skipped: str) -> list[str]:
        return [sample.id for sample in find_new(tmp_path, "c", "folder", Layout(), ["a"], set(skipped)).samples]

    assert found() == ["lot7", "lot7/p1", "lot7/p2", "lot7/p2/inner"]
    assert found("lot7", "lot7/p2") == ["lot7/p1", "lot7/p2/inner"]
