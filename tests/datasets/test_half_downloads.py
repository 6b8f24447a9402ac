"""Downloads of published sets that are not whole, not unpacked or damaged are refused in one line."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command import mvad
from PIL import Image

from mvad.datasets.photographs.published import find_set_category
from mvad.datasets.photographs.sets.registry import chosen_categories
from mvad.errors import BadInput

SIZE = 64


def zipped(folder: Path) -> None:
    """Put a folder into an archive beside it, as it was before it was unpacked."""
    with zipfile.ZipFile(folder.with_name(f"{folder.name}.zip"), "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)


def of_another_width(raw: Path) -> None:
    path = next((raw / "mechanics/gear/train/good").iterdir())
    Image.open(path).resize((1000, 256)).save(path)


def check_all(name: str, raw: Path) -> None:
    for category in chosen_categories(name, raw):
        find_set_category(name, raw, category, SIZE).check()


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an archive": ("mvtecad", lambda raw: zipped(raw / "gear"), r"gear.zip: is not unpacked; unpack it into .*mvtecad"),
    "an archive of a domain": ("mantatiny", lambda raw: zipped(raw / "mechanics"), r"mechanics.zip: is not unpacked"),
    "an archive of pictures": (
        "realiadvariety", lambda raw: zipped(raw / "realiadvariety_raw/gear"),
        r"realiadvariety_raw/gear.zip: is not unpacked; unpack it into .*realiadvariety_raw",
    ),
    "an archive of splits": (
        "realiadvariety", lambda raw: zipped(raw / "realiadvariety_jsons"), r"realiadvariety_jsons.zip: is not unpacked",
    ),
    "no splits": (
        "realiadvariety", lambda raw: shutil.rmtree(raw / "realiadvariety_jsons"),
        r"realiadvariety_jsons: no split file; --raw must hold realiadvariety_jsons/<category>.json",
    ),
    "no pictures": (
        "realiadvariety", lambda raw: shutil.rmtree(raw / "realiadvariety_raw"),
        r"realiadvariety_raw/gear: not found; download gear.zip and unpack it there",
    ),
    "another width": (
        "mantatiny", of_another_width, r"1000 x 256 pixels, mantatiny's pictures have 1280 x 256; get it again; --partial packs",
    ),
    "four views": (
        "manta", lambda raw: next((raw / "mechanics/gear/train/good").rglob("view_2.png")).unlink(),
        r"4 pictures of \d+, manta has 5 of a part; get it again; --partial",
    ),
    "folders of parts": (
        "mvtecad", lambda raw: shutil.copytree(raw / "gear/test/good", raw / "gear/train/good/sub"), r"holds folders of parts, and 5 pictures",
    ),
    "no test split": (
        "mvtecad", lambda raw: shutil.rmtree(raw / "gear/test"), r"holds no part of the split test; the download is not whole",
    ),
    "no validation split": (
        "mvtecloco", lambda raw: shutil.rmtree(raw / "gear/validation"), r"holds no part of the split validation; the download",
    ),
    "no masks": (
        "mvtecad2", lambda raw: shutil.rmtree(raw / "gear/test_public/ground_truth"),
        r"has no mask in ground_truth; the download is not whole, get it again \(the first of 7 problems\)",
    ),
    "a level too low": ("mvtecad", lambda raw: (raw / "gear").rename(raw / "more" / "gear"), r"gear is in .*more; give --raw .*more"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_half_a_download_is_refused_in_one_line(kind: str, copied: Callable[[str], Path], tmp_path: Path) -> None:
    name, damage, message = DAMAGE[kind]
    raw = copied(name)
    (raw / "more").mkdir()
    damage(raw)
    with pytest.raises(BadInput, match=message) as refused:
        check_all(name, raw)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3


def test_pointers_in_the_place_of_pictures_are_named(copied: Callable[[str], Path], tmp_path: Path) -> None:
    raw = copied("mvtecad")
    for path in raw.rglob("*.png"):
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n")
    with pytest.raises(
        BadInput, match=r"png: is a pointer of git-lfs.* \(the first of 5 training parts, none of which can be read\)"
    ) as refused:
        find_set_category("mvtecad", raw, "gear", SIZE).source()
    assert "\n" not in str(refused.value)
    done = mvad("pack", "--dataset", "mvtecad", "--raw", str(raw), "--dry-run", cwd=tmp_path)
    assert done.returncode == 3
    assert "14 problems, as listed above" in done.stderr


def test_the_command_refuses_with_exit_code_3(copied: Callable[[str], Path], tmp_path: Path) -> None:
    raw = copied("mvtecad")
    zipped(raw / "gear")
    done = mvad("pack", "--dataset", "mvtecad", "--raw", str(raw), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "gear.zip: is not unpacked" in done.stderr
    done = mvad("pack", "--dataset", "mvtecad", "--raw", str(raw), "--category", "gear", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
