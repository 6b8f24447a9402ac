"""Folders as people have them: every scan is read, or named; no name makes a label in silence."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mvad.datasets.eyecandies import ASSUMED_GOOD
from mvad.datasets.folders import is_hidden, visible
from mvad.datasets.masks import NO_MASK
from mvad.datasets.registry import find_categories, reader_for
from mvad.datasets.scan import ReadOptions, ScanRef
from mvad.datasets.verify import verify_tree
from mvad.errors import BadInput
from mvad.model.synthesis.textures import FolderTextures
from mvad.progress import Silent

SIDE = 32
SCANS = {"train/good": "012", "validation/good": "0", "test/good": "01", "test/hole": "01"}


def write_scan(folder: Path, name: str, defect: bool, with_gt: bool) -> None:
    for kind in ("xyz", "rgb", *(("gt",) if with_gt else ())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    points = np.stack(
        [*np.meshgrid(np.linspace(-0.05, 0.05, SIDE), np.linspace(-0.05, 0.05, SIDE)), np.full((SIDE, SIDE), 0.6)], 2
    )
    tifffile.imwrite(folder / "xyz" / f"{name}.tiff", points.astype(np.float32), photometric="rgb")
    Image.new("RGB", (SIDE, SIDE), (90, 80, 70)).save(folder / "rgb" / f"{name}.png")
    if with_gt:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[4:9, 5:11] = 255 * defect
        Image.fromarray(mask).save(folder / "gt" / f"{name}.png")


@pytest.fixture
def gear(tmp_path: Path) -> Path:
    """A category in MVTec 3D-AD's layout: 3 training scans, 1 for validation, 2 good and 2 with a hole."""
    for place, names in SCANS.items():
        for name in names:
            write_scan(tmp_path / "raw" / "gear" / place, f"00{name}", place.endswith("hole"), place.startswith("test"))
    return tmp_path / "raw" / "gear"


@pytest.fixture
def dome(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the generated category in Eyecandies' layout."""
    return Path(shutil.copytree(workspace / "raw" / "eyecandies" / "dome", tmp_path / "raw" / "dome"))


def refs_of(category: Path, dataset: str = "mvtec3d") -> list[ScanRef]:
    return reader_for(dataset).refs(category.parent, category.name, ReadOptions())


def readable(refs: list[ScanRef], dataset: str = "mvtec3d") -> tuple[Counter[str], dict[str, str]]:
    """Return the number of scans that are read by split and defect, and the reason of each of the others by its key."""
    good, bad = Counter[str](), {}
    for ref in refs:
        try:
            reader_for(dataset).load(ref)
            good[f"{ref.split}/{ref.defect}"] += 1
        except BadInput as error:
            bad[ref.key] = str(error)
    return good, bad


WHOLE = Counter({place: len(names) for place, names in SCANS.items()})


def test_a_whole_category_is_read_without_a_note(gear: Path) -> None:
    refs = refs_of(gear)
    assert readable(refs) == (WHOLE, {})
    assert {ref.notes for ref in refs} == {()}


def drop(*kinds: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for kind in kinds:
            next((folder / kind).glob("001.*")).unlink()

    return apply


def npy_instead(folder: Path) -> None:
    np.save(folder / "xyz" / "001.npy", tifffile.imread(folder / "xyz" / "001.tiff"))
    (folder / "xyz" / "001.tiff").unlink()


def twice(folder: Path) -> None:
    shutil.copy(folder / "rgb" / "001.png", folder / "rgb" / "001.jpg")


def renamed_mask(folder: Path) -> None:
    (folder / "gt" / "001.png").rename(folder / "gt" / "002.png")


UNPAIRED = {
    "no points": (drop("xyz"), {"001": "xyz/001.tiff: not found"}),
    "no colours": (drop("rgb"), {"001": "rgb/001.png: not found"}),
    "no mask": (drop("gt"), {"001": "gt/001.png: not found"}),
    "a mask alone": (drop("xyz", "rgb"), {"001": "xyz/001.tiff: not found"}),
    "colours alone": (drop("xyz", "gt"), {"001": "xyz/001.tiff: not found"}),
    "points of a kind that is not read": (npy_instead, {"001": "xyz/001.npy: not a .tiff file"}),
    "two pictures of one scan": (twice, {"001": "there is 001.jpg beside it"}),
    "a mask under another number": (renamed_mask, {"001": "gt/001.png: not found", "002": "xyz/002.tiff: not found"}),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_what_does_not_pair_is_named_and_costs_its_own_scan(gear: Path, name: str) -> None:
    change, expected = UNPAIRED[name]
    change(gear / "test" / "hole")
    good, bad = readable(refs_of(gear))
    assert set(bad) == {f"gear/test/hole/{number}" for number in expected}
    for number, reason in expected.items():
        assert reason in bad[f"gear/test/hole/{number}"]
    assert good == WHOLE - Counter({"test/hole": 1})


def test_a_defect_without_its_folder_of_points_does_not_vanish(gear: Path) -> None:
    shutil.rmtree(gear / "test" / "hole" / "xyz")
    assert set(readable(refs_of(gear))[1]) == {"gear/test/hole/000", "gear/test/hole/001"}


@pytest.mark.parametrize(
    ("kind", "ending"), [("xyz", ".TIFF"), ("xyz", ".tif"), ("xyz", ".Tif"), ("rgb", ".PNG"), ("rgb", ".jpg"), ("gt", ".Png")]
)
def test_endings_are_read_in_any_case(gear: Path, kind: str, ending: str) -> None:
    for path in sorted(gear.rglob(f"{kind}/001.*")):
        path.rename(path.with_suffix(ending))
    assert readable(refs_of(gear)) == (WHOLE, {})


def test_new_scans_are_paired_likewise(gear: Path) -> None:
    (gear / "test" / "hole" / "xyz" / "001.tiff").unlink()
    (gear / "test" / "good" / "xyz" / "001.tiff").rename(gear / "test" / "good" / "xyz" / "001.TIF")
    (gear / "test" / "good" / "xyz" / "._000.tiff").write_bytes(b"\0\5\26\7")
    shutil.copytree(gear / "test" / "good", gear / "test" / ".ipynb_checkpoints")
    refs = reader_for("mvtec3d").new_refs(gear, "gear", ReadOptions())
    good, bad = readable(refs)
    assert sum(good.values()) == 7
    assert set(bad) == {"gear/new/unknown/test/hole/001"}


HIDDEN = {
    "of macOS": lambda c: [(p.parent / f"._{p.name}").write_bytes(b"\0\5\26\7" + bytes(80)) for p in c.rglob("*.*")],
    "of Jupyter": lambda c: [shutil.copytree(c / place, c / "test" / ".ipynb_checkpoints") for place in ("test/good",)],
    "a hidden split": lambda c: shutil.copytree(c / "test", c / ".test"),
    "a hidden category": lambda c: shutil.copytree(c, c.parent / ".gear"),
    "hidden files of a folder": lambda c: [(folder / ".DS_Store").write_bytes(b"x") for folder in c.rglob("*/")],
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_name_that_begins_with_a_dot_is_never_data(gear: Path, name: str) -> None:
    before = refs_of(gear)
    HIDDEN[name](gear)  # type: ignore[no-untyped-call]
    assert refs_of(gear) == before
    assert readable(refs_of(gear)) == (WHOLE, {})
    assert find_categories(reader_for("mvtec3d"), gear.parent) == ["gear"]


def test_hidden_files_of_eyecandies_are_no_data(dome: Path) -> None:
    before = refs_of(dome, "eyecandies")
    for path in sorted(dome.rglob("*.*")):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
    shutil.copytree(dome / "train" / "data", dome / "train" / "data" / ".ipynb_checkpoints")
    assert refs_of(dome, "eyecandies") == before
    assert len(reader_for("eyecandies").new_refs(dome, "dome", ReadOptions())) == len(before)


def test_only_names_below_the_root_are_hidden() -> None:
    root = Path("/home/.me/raw")
    assert not is_hidden(root / "gear" / "000.tiff", root)
    assert visible([root / "b", root / ".a", root / "c" / ".d" / "e", root / "c" / "a"], root) == [root / "b", root / "c" / "a"]


def test_hidden_files_beside_shards_renders_and_textures_are_no_data(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "shards" / "mvtec3d", tmp_path / "shards")
    shutil.copytree(workspace / "renders" / "mvtec3d" / "gear" / "validation", tmp_path / "renders")
    checked = verify_tree([tmp_path], Silent())
    assert checked[1] == []
    for path in [*tmp_path.rglob("*.h5"), *tmp_path.rglob("*.png"), *tmp_path.rglob("*.json")]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert verify_tree([tmp_path], Silent()) == checked


def test_hidden_files_among_textures_are_no_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\26\7")
    assert "1 pictures" in FolderTextures(tmp_path).name


RENAMED = {
    "test/good": ("test/ok", "test/ok read as good"),
    "test/good ": ("test/Good", "test/Good read as good"),
    "test/good  ": ("test/defect-free", "test/defect-free read as good"),
    "train/good": ("train/NORMAL", "train/NORMAL read as good"),
    "validation": ("val", "val read as validation"),
    "validation ": ("valid", "valid read as validation"),
    "test": ("Test", "Test read as test"),
    "train": ("training", "training read as train"),
}


@pytest.mark.parametrize("place", RENAMED)
def test_another_name_of_a_split_or_of_good_is_read_with_a_note(gear: Path, place: str) -> None:
    name, note = RENAMED[place]
    before = refs_of(gear)
    (gear / place.strip()).rename(gear / "between")
    (gear / "between").rename(gear / name)
    refs = refs_of(gear)
    assert refs == before, "keys and labels are those of the dataset's own names"
    assert {text for ref in refs for text in ref.notes} == {note}
    assert readable(refs) == (WHOLE, {})


def test_folders_that_would_be_one_are_refused(gear: Path) -> None:
    shutil.copytree(gear / "test" / "good", gear / "test" / "ok")
    with pytest.raises(BadInput, match="good and ok both hold good parts; merge them"):
        refs_of(gear)
    shutil.rmtree(gear / "test" / "ok")
    shutil.copytree(gear / "validation", gear / "val")
    with pytest.raises(BadInput, match="val and validation are both the split validation"):
        refs_of(gear)


def test_folders_that_are_no_split_are_refused(gear: Path) -> None:
    (gear / "test").rename(gear / "holdout")
    with pytest.raises(BadInput, match="holdout: holds scans, but is no split; name it train"):
        refs_of(gear)
    (gear / "holdout").rename(gear / "test")
    for kind in ("xyz", "rgb"):
        (gear / "train" / "good" / kind).rename(gear / "train" / kind)
    with pytest.raises(BadInput, match="train/xyz: expected train/good/xyz"):
        refs_of(gear)


def test_folders_of_kinds_may_have_capitals_and_flat_ones_are_refused(gear: Path) -> None:
    (gear / "test" / "hole" / "xyz").rename(gear / "test" / "hole" / "XYZ")
    (gear / "test" / "empty").mkdir()
    assert readable(refs_of(gear)) == (WHOLE, {})
    (gear / "test" / "flat").mkdir()
    shutil.copy(gear / "test" / "good" / "xyz" / "000.tiff", gear / "test" / "flat")
    with pytest.raises(BadInput, match=r"flat: holds files, but no scan; expected flat/xyz/\*\.tiff"):
        refs_of(gear)


@pytest.mark.parametrize("name", [b"a\nb", b"\xff", b"a.part-1", b"\x1b[31m"])
def test_names_that_cannot_be_keys_are_refused_in_one_line(gear: Path, name: bytes) -> None:
    folder = gear / "test" / "hole" / "xyz"
    os.rename(os.fsencode(folder / "001.tiff"), os.fsencode(folder) + b"/" + name + b".tiff")
    with pytest.raises(BadInput, match="cannot be that of a scan; rename it") as caught:
        refs_of(gear)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_defects_among_good_scans_are_named_and_not_taken(gear: Path, split: str) -> None:
    shutil.copytree(gear / "test" / "hole", gear / split / "hole")
    good, bad = readable(refs_of(gear))
    assert good == WHOLE
    assert set(bad) == {f"gear/{split}/hole/000", f"gear/{split}/hole/001"}
    assert f"{split} is taken as good parts only; move its scans to test/hole" in bad[f"gear/{split}/hole/000"]


def test_a_good_scan_without_a_mask_is_normal(gear: Path) -> None:
    shutil.rmtree(gear / "test" / "good" / "gt")
    refs = refs_of(gear)
    assert readable(refs) == (WHOLE, {})
    assert {ref.notes for ref in refs if ref.split == "test" and ref.defect == "good"} == {(NO_MASK,)}


def test_a_marked_mask_of_a_good_scan_is_named(gear: Path) -> None:
    shutil.copy(gear / "test" / "hole" / "gt" / "000.png", gear / "test" / "good" / "gt" / "001.png")
    good, bad = readable(refs_of(gear))
    assert set(bad) == {"gear/test/good/001"}
    assert "marks 30 pixels of a scan that is labelled good" in bad["gear/test/good/001"]
    assert good == WHOLE - Counter({"test/good": 1})


def one(dome: Path, split: str, kind: str) -> Path:
    return sorted((dome / split / "data").glob(f"*_{kind}"))[0]


def test_eyecandies_files_that_do_not_pair_are_named(dome: Path) -> None:
    whole = readable(refs_of(dome, "eyecandies"), "eyecandies")
    assert whole[1] == {}
    one(dome, "test_public", "depth.png").unlink()
    one(dome, "train", "depth.png").rename(one(dome, "train", "depth.png").with_suffix(".PNG"))
    good, bad = readable(refs_of(dome, "eyecandies"), "eyecandies")
    assert len(bad) == 1
    assert "depth.png: not found" in next(iter(bad.values()))
    assert sum(good.values()) == sum(whole[0].values()) - 1


@pytest.mark.parametrize(("name", "own"), [("test", "test_public"), ("Test_Public", "test_public"), ("validation", "val")])
def test_eyecandies_splits_under_other_names_are_read_with_a_note(dome: Path, name: str, own: str) -> None:
    before = refs_of(dome, "eyecandies")
    (dome / own).rename(dome / name)
    refs = refs_of(dome, "eyecandies")
    assert refs == before
    assert {text for ref in refs for text in ref.notes} == {f"{name} read as {own}"}


def test_eyecandies_without_a_folder_data_is_refused(dome: Path) -> None:
    for path in (dome / "val" / "data").iterdir():
        path.rename(dome / "val" / path.name)
    with pytest.raises(BadInput, match="val: expected its files in val/data"):
        refs_of(dome, "eyecandies")


def test_eyecandies_labels_that_are_missing_or_contradict(dome: Path) -> None:
    """Test scans need a label; those of splits of good scans are good, unless they say otherwise; masks must agree."""
    bad_one = next(ref for ref in refs_of(dome, "eyecandies") if ref.split == "test" and ref.defect != "good")
    metadata = bad_one.paths["depth"].with_name(f"{bad_one.id}_metadata.yaml")
    train = sorted((dome / "train" / "data").glob("*_metadata.yaml"))
    train[0].write_text(metadata.read_text())
    train[1].unlink()
    good = next(ref for ref in refs_of(dome, "eyecandies") if ref.split == "test" and ref.defect == "good")
    shutil.copy(bad_one.paths["gt"], good.paths["gt"])
    metadata.unlink()
    refs = refs_of(dome, "eyecandies")
    _, bad = readable(refs, "eyecandies")
    assert sorted(key.split("/")[1] for key in bad) == ["test", "test", "train"]
    reasons = " ".join(bad.values())
    assert f"{metadata.name}: not found, so the scan has no label" in reasons
    assert "labelled good; move the scan to its defect" in reasons
    assert "train is taken as good scans only" in reasons
    assert [ref.defect for ref in refs if ASSUMED_GOOD in ref.notes] == ["good"]


def test_an_eyecandies_good_test_scan_without_a_mask_is_normal(dome: Path) -> None:
    good = next(ref for ref in refs_of(dome, "eyecandies") if ref.split == "test" and ref.defect == "good")
    good.paths["gt"].unlink()
    refs = refs_of(dome, "eyecandies")
    assert readable(refs, "eyecandies")[1] == {}
    assert [ref.key for ref in refs if ref.notes] == [good.key]
