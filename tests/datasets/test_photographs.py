"""Real-IAD as people have it: links, backslashes, other splits, damaged pictures, many cameras."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from PIL import Image

from mvad import files
from mvad.datasets import realiad
from mvad.datasets.masks import CLASSES, UNMARKED
from mvad.datasets.shards.contents import count, tasks
from mvad.datasets.shards.pack import PackOptions, pack_realiad
from mvad.datasets.shards.sources import DEFECTIVE_TRAINING
from mvad.datasets.verify_inputs import verify_inputs
from mvad.errors import BadInput
from mvad.progress import Silent

SIZE = 32
OPTIONS = PackOptions(size=SIZE)
Entry = dict[str, Any]


def add(raw: Path, entries: list[Entry], folder: str, kind: str, cameras: str = "12") -> None:
    """Write the pictures of one sample, and masks where it shows a defect, and list them."""
    for camera in cameras:
        stem = f"{folder}/c_0001_{kind}_C{camera}_2026{camera}"
        path = raw / "realiad_256" / "c" / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (80 + 10 * len(entries), 60, 40)).save(path)
        mask = None
        if kind != "OK":
            mask = f"{stem}.png"
            marked = np.zeros((48, 48), np.uint8)
            marked[12:24, 12:24] = 255
            Image.fromarray(marked).save(path.with_suffix(".png"))
        entries.append({"category": "c", "anomaly_class": kind, "image_path": f"{stem}.jpg", "mask_path": mask})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four training samples, two good and two bad test samples of two views."""
    root, train, test = tmp_path / "raw", list[Entry](), list[Entry]()
    for number in range(4):
        add(root, train, f"OK/S500{number}", "OK")
    for number in range(2):
        add(root, test, f"OK/S000{number}", "OK")
        add(root, test, f"NG/AK/S000{number}", "AK")
    write_split(root, {"train": train, "test": test})
    return root


def write_split(root: Path, lists: dict[str, list[Entry]], folder: str = "realiad_jsons") -> None:
    (root / folder).mkdir(exist_ok=True)
    meta = {"prefix": "c/", "normal_class": "OK", "pre_transform": False}
    (root / folder / "c.json").write_text(json.dumps({"meta": meta, **lists}))


def read_split(root: Path, folder: str = "realiad_jsons") -> dict[str, Any]:
    content = json.loads((root / folder / "c.json").read_text())
    return {name: content[name] for name in ("train", "test")}


def pack(raw: Path, out: Path, splits: str | None = None, overwrite: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Pack, and return the manifest and the bytes of the shards."""
    made = pack_realiad(raw, "c", out, OPTIONS, Silent(), 2, overwrite, splits)
    return files.read_json(made), {path.name: path.read_bytes() for path in sorted(made.parent.glob("*.h5"))}


def keys(manifest: dict[str, Any], folder: Path) -> list[str]:
    found = []
    for entry in manifest["shards"]:
        with h5py.File(folder / "realiad" / "c" / entry["file"]) as file:
            found += list(file["key"].asstr())
    return found


def test_whole_data_have_neither_notes_nor_missing_samples(raw: Path, tmp_path: Path) -> None:
    manifest, _ = pack(raw, tmp_path / "out")
    assert sum(entry["samples"] for entry in manifest["shards"]) == 8
    assert not {"notes", "missing"} & set(manifest)
    assert "splits" not in manifest["config"]


def test_links_of_a_cache_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    """Files link to blobs outside of the folder, the category's folder and the split's are links themselves."""
    whole = pack(raw, tmp_path / "whole")[1]
    linked = tmp_path / "snapshots" / "raw"
    blobs = tmp_path / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in raw.rglob("*") if path.is_file())):
        shutil.copy(path, blobs / f"{number:064x}")
        link = linked / path.relative_to(raw)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / f"{number:064x}")
    (linked / "realiad_256" / "c").rename(tmp_path / "elsewhere")
    (linked / "realiad_256" / "c").symlink_to(tmp_path / "elsewhere")
    assert pack(linked, tmp_path / "out")[1] == whole


def test_backslashes_are_separators(raw: Path, tmp_path: Path) -> None:
    before = realiad.refs(raw, "c")
    lists = read_split(raw)
    for entry in [*lists["train"], *lists["test"]]:
        for name in ("image_path", "mask_path"):
            entry[name] = entry[name] and ".\\" + entry[name].replace("/", "\\")
    write_split(raw, lists)
    assert realiad.refs(raw, "c") == before
    assert [ref.views for ref in realiad.refs(raw, "c")] == [ref.views for ref in before]


@pytest.mark.parametrize("name", ["..\\..\\x_C1_1.jpg", "C:\\x_C1_1.jpg", "\\x_C1_1.jpg", "a\\..\\..\\x_C1_1.jpg"])
def test_backslashes_lead_out_no_more_than_slashes(raw: Path, name: str) -> None:
    lists = read_split(raw)
    lists["train"][0]["image_path"] = name
    write_split(raw, lists)
    with pytest.raises(BadInput, match="outside of this folder"):
        realiad.refs(raw, "c")


def test_hidden_pictures_and_split_files_are_no_data(raw: Path) -> None:
    before = realiad.refs(raw, "c")
    lists = read_split(raw)
    entry = lists["train"][0]
    lists["train"].append(entry | {"image_path": entry["image_path"].replace("c_0001", "._c_0001")})
    write_split(raw, lists)
    (raw / "realiad_jsons" / "._c.json").write_bytes(b"\0\5\26\7")
    shutil.copytree(raw / "realiad_jsons", raw / ".realiad_jsons_sv")
    assert realiad.refs(raw, "c") == before
    assert realiad.categories(raw) == ["c"]
    assert realiad.find_splits(raw) == "realiad_jsons"


def test_views_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root, train = tmp_path / "raw", list[Entry]()
    for camera in ("2", "10", "1"):
        add(root, train, "OK/S5000", "OK", [camera])  # type: ignore[arg-type]
    write_split(root, {"train": train, "test": []})
    assert [view.camera for view in realiad.refs(root, "c")[0].views] == ["C1", "C2", "C10"]
    assert pack(root, tmp_path / "out")[0]["views"] == ["C1", "C2", "C10"]
    assert list(count(root, root, "realiad", "c")[0].anomalous_views) == ["C1", "C2", "C10"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "a pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "not square": lambda path: Image.new("RGB", (48, 40)).save(path),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_pictures_cost_their_samples_and_are_listed_at_once(raw: Path, tmp_path: Path, kind: str) -> None:
    pictures = raw / "realiad_256" / "c"
    for place in ("OK/S5001", "NG/AK/S0000", "NG/AK/S0001"):
        DAMAGE[kind](sorted((pictures / place).glob("*.jpg"))[1])
    manifest, shards = pack(raw, tmp_path / "out")
    lost = ["c/test/AK/NG_AK_S0000", "c/test/AK/NG_AK_S0001", "c/train/good/OK_S5001"]
    assert [entry["key"] for entry in manifest["missing"]] == lost
    assert all("C2_20262.jpg" in entry["reason"] for entry in manifest["missing"])
    assert keys(manifest, tmp_path / "out") == [ref.key for ref in realiad.refs(raw, "c") if ref.key not in lost]
    card = (tmp_path / "out" / "realiad" / "c" / "README.md").read_text()
    assert "3 samples are missing:" in card
    assert lost[2] in card
    assert pack(raw, tmp_path / "out") == (manifest, shards), "a second run gives the same, from the shards that are there"


def test_a_repaired_picture_comes_back(raw: Path, tmp_path: Path) -> None:
    picture = sorted((raw / "realiad_256" / "c" / "OK" / "S5001").glob("*.jpg"))[1]
    content = picture.read_bytes()
    truncate(picture)
    assert "missing" in pack(raw, tmp_path / "out")[0]
    picture.write_bytes(content)
    manifest, shards = pack(raw, tmp_path / "out")
    assert (manifest, shards) == pack(raw, tmp_path / "whole")


def test_no_readable_picture_is_one_line(raw: Path, tmp_path: Path) -> None:
    for path in raw.rglob("*.jpg"):
        truncate(path)
    with pytest.raises(BadInput, match=r"jpg: damaged .*the first of 8 samples, none of which can be read"):
        pack(raw, tmp_path / "out")


def test_splits_are_chosen_by_name(raw: Path, tmp_path: Path) -> None:
    """The single-view splits list one view of each sample, those of FUIAD train on defects, too."""
    lists = read_split(raw)
    write_split(
        raw, {name: [e for e in entries if "_C1_" in e["image_path"]] for name, entries in lists.items()}, "realiad_jsons_sv"
    )
    moved = [entry for entry in lists["test"] if "NG/AK/S0000" in entry["image_path"]]
    rest = [entry for entry in lists["test"] if entry not in moved]
    write_split(raw, {"train": lists["train"] + moved, "test": rest}, "realiad_jsons_fuiad_0.1")
    assert tasks(tmp_path, raw, ["realiad"], None, "sv") == [("realiad", "c")]
    assert [row.images for row in count(tmp_path, raw, "realiad", "c", "sv")] == [4, 4]
    single, _ = pack(raw, tmp_path / "single", "sv")
    assert (single["views"], single["config"]["splits"]) == (["C1"], "realiad_jsons_sv")
    noisy, _ = pack(raw, tmp_path / "noisy", "realiad_jsons_fuiad_0.1")
    assert noisy["notes"] == [{"note": DEFECTIVE_TRAINING, "samples": 1, "first": "c/train/AK/NG_AK_S0000"}]
    assert [entry["anomalous"] for entry in noisy["shards"] if entry["split"] == "train"] == [1]
    with pytest.raises(BadInput, match=r"--splits mv: .* has realiad_jsons, realiad_jsons_fuiad_0.1, realiad_jsons_sv; choose"):
        pack(raw, tmp_path / "none", "mv")
    with pytest.raises(BadInput, match="--overwrite"):
        pack(raw, tmp_path / "single")
    shutil.copytree(raw, tmp_path / "all" / "realiad")
    assert verify_inputs(tmp_path / "renders", tmp_path / "single", tmp_path / "all", Silent()) == (9, [])


def test_the_only_split_folder_is_taken_and_one_of_several_is_asked_for(raw: Path, tmp_path: Path) -> None:
    (raw / "realiad_jsons").rename(raw / "realiad_jsons_sv")
    assert pack(raw, tmp_path / "out")[0]["config"]["splits"] == "realiad_jsons_sv"
    shutil.copytree(raw / "realiad_jsons_sv", raw / "realiad_jsons_fuiad_0.1")
    with pytest.raises(
        BadInput, match=r"realiad_jsons_fuiad_0\.1, realiad_jsons_sv, and no realiad_jsons; choose one by --splits"
    ):
        tasks(tmp_path, raw, None, None)
    assert tasks(tmp_path, raw, ["realiad"], None, "sv") == [("realiad", "c")]


def test_masks_follow_the_rule_and_the_manifest_says_where(raw: Path, tmp_path: Path) -> None:
    masks = sorted((raw / "realiad_256" / "c" / "NG").rglob("*.png"))
    drawn = np.zeros((48, 48), np.uint8)
    drawn[12:24, 12:24] = 1
    drawn[18:24, 12:24] = 2
    Image.fromarray(drawn).save(masks[0])
    Image.fromarray(drawn * 0).save(masks[2])
    manifest, _ = pack(raw, tmp_path / "out")
    assert manifest["notes"] == [
        {"note": CLASSES, "samples": 1, "first": "c/test/AK/NG_AK_S0000"},
        {"note": UNMARKED, "samples": 1, "first": "c/test/AK/NG_AK_S0001"},
    ]
    with h5py.File(tmp_path / "out" / "realiad" / "c" / "test-00000.h5") as file:
        marked = file["mask"][:].sum(axis=(2, 3))
        assert file["view_label"][:].tolist()[:2] == [[1, 1], [1, 1]]
    assert marked.tolist() == [[64, 64], [0, 64], [0, 0], [0, 0]]


def test_shards_of_another_size_are_not_mixed_with_failures(raw: Path, tmp_path: Path) -> None:
    """Each shard remembers its own failures; one of which nothing can be read is not written."""
    for path in (raw / "realiad_256" / "c" / "OK").glob("S500*/*.jpg"):
        truncate(path)
    made = pack_realiad(raw, "c", tmp_path / "out", replace(OPTIONS, shard_mb=0.013), Silent())
    manifest = files.read_json(made)
    assert [entry["split"] for entry in manifest["shards"]] == ["test"] * len(manifest["shards"])
    assert len(manifest["missing"]) == 4


def test_larger_pictures_are_taken_where_they_are_asked_for_and_known_later(raw: Path, tmp_path: Path) -> None:
    """What was packed from the smallest folder stays what it is when a larger one is downloaded."""
    small = pack(raw, tmp_path / "small")[0]
    assert "images" not in small["config"]
    shutil.copytree(raw / "realiad_256", raw / "realiad_512")
    for path in (raw / "realiad_512").rglob("*.jpg"):
        Image.new("RGB", (96, 96), (10, 200, 30)).save(path)
    for path in (raw / "realiad_512").rglob("*.png"):
        Image.fromarray(np.ones((96, 96), np.uint8) * 255).save(path)
    (tmp_path / "renders").mkdir()
    assert verify_inputs(tmp_path / "renders", tmp_path / "small", raw, Silent())[1] == [], "its pictures are as they were"
    options = PackOptions(size=300)
    made = files.read_json(pack_realiad(raw, "c", tmp_path / "large", options, Silent(), 2))
    assert made["config"]["images"] == "realiad_512"
    assert verify_inputs(tmp_path / "renders", tmp_path / "large", raw, Silent())[1] == []
    shutil.copytree(raw / "realiad_512", raw / "realiad_1024")
    assert verify_inputs(tmp_path / "renders", tmp_path / "large", raw, Silent())[1] == []


def test_archives_may_be_unpacked_into_folders_of_theirs(raw: Path, tmp_path: Path) -> None:
    """As anomalib and others have them: realiad_jsons/realiad_jsons/c.json, realiad_256/c/c/..."""
    before = pack(raw, tmp_path / "flat")
    write_split(raw, read_split(raw), "realiad_jsons_sv")
    (raw / "inner").mkdir()
    for name in ("realiad_jsons", "realiad_jsons_sv"):
        shutil.move(raw / name, raw / "inner" / name)
    (raw / "inner").rename(raw / "realiad_jsons")
    shutil.move(raw / "realiad_256/c", raw / "inner")
    (raw / "realiad_256/c").mkdir()
    (raw / "inner").rename(raw / "realiad_256/c/c")
    after = pack(raw, tmp_path / "nested")
    assert after[1] == before[1], "the same shards"
    assert pack(raw, tmp_path / "sv", "sv")[0]["config"]["splits"] == "realiad_jsons_sv"
    (tmp_path / "renders").mkdir()
    assert verify_inputs(tmp_path / "renders", tmp_path / "nested", raw, Silent())[1] == []
