"""A folder in which 100,000 parts are decided is looked at again in seconds, and nothing that is new in it is missed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from mvad.datasets.photographs import arriving, layouts
from mvad.datasets.photographs.arriving import find_new
from mvad.datasets.photographs.layouts import Layout


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the folders that are listed from here on."""
    found: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(arriving.os, "scandir", lambda place: (found.append(Path(str(place)).name), scandir(place))[1])
    return found


def test_folders_of_decided_parts_are_not_listed_again_unless_they_change(
    tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "_AT_REST_NS", -1)
    touch(tmp_path, "p1/a.png", "p2/a.png", "p3/inner/a.png", "p3/a.png")
    known: dict[str, int] = {}

    def found() -> list[str]:
        listed.clear()
        return [part.id for part in find_new(tmp_path, "c", "folder", Layout(), ["a"], {"p1", "p2", "p3"}, known).samples]

    assert found() == found() == ["p3/inner"]
    assert sorted(listed) == sorted([tmp_path.name, "p3", "inner"]), "p1 and p2 did not change"
    time.sleep(0.05)  # a tick of the file system's clock
    touch(tmp_path, "p1/late/a.png", "p4/a.png")
    assert found() == ["p1/late", "p3/inner", "p4"]
    shutil.rmtree(tmp_path / "p2")
    assert found() == ["p1/late", "p3/inner", "p4"]


def test_a_folder_that_has_just_changed_is_listed_again(
    tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the file system's clock a second change has the time of the first."""
    monkeypatch.setattr(arriving, "_AT_REST_NS", 10**12)
    touch(tmp_path, "p1/a.png")
    known: dict[str, int] = {}
    listed.clear()
    for _ in range(2):
        assert not find_new(tmp_path, "c", "folder", Layout(), ["a"], {"p1", tmp_path.name}, known).samples
    assert listed.count("p1") == 2


def test_links_back_end(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.png")
    (tmp_path / "p1" / "back").symlink_to(tmp_path)
    (tmp_path / "p0").symlink_to(tmp_path / "gone")
    assert [part.id for part in find_new(tmp_path, "c", "folder", Layout(), ["a"]).samples] == ["p1"]


def test_a_second_link_to_a_decided_part_is_no_new_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "_AT_REST_NS", -1)
    touch(tmp_path, "p1/a.png")
    (tmp_path / "q").symlink_to(tmp_path / "p1")
    known: dict[str, int] = {}
    looks = [find_new(tmp_path, "c", "folder", Layout(), ["a"], {"p1"}, known).samples for _ in range(3)]
    assert looks == [[], [], []]
    assert known


@pytest.mark.parametrize("layout", [Layout(), Layout(pattern="{sample}_{view}.png")])
def test_decided_pictures_in_a_flat_folder_are_left_out_with_what_lies_beside(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "p1_C.png", "p1_C_mask.png", "p2_C.png", "p2_C_mask.png", "p3_C_mask.png", "p.1_C.png")
    views, decided = (["C"], {"p1", "p.1"}) if layout.pattern else (["view"], {"p1_C", "p.1_C"})
    asked: list[str] = []
    is_picture = layouts.is_picture
    monkeypatch.setattr(layouts, "is_picture", lambda path, root: (asked.append(path.name), is_picture(path, root))[1])
    found = find_new(tmp_path, "c", "folder", layout, views, decided)
    assert [part.id for part in found.samples] == (["p2"] if layout.pattern else ["p2_C"])
    assert [Path(line.split(":")[0]).name for line in found.problems] == ["p3_C_mask.png"]
    assert not any(name.startswith(("p1", "p.1")) for name in asked)


def test_decided_pictures_in_folders_are_left_out_by_their_whole_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/x.png", "x.png")
    found = find_new(tmp_path, "c", "folder", Layout(), ["view"], {"a/x"})
    assert [part.id for part in found.samples] == ["x", "b/x"]
    by_pattern = find_new(tmp_path, "c", "folder", Layout(pattern="{sample}/{view}.png"), ["x"], {"a"})
    assert [part.id for part in by_pattern.samples] == ["b"]
