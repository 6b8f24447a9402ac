"""``mvad pack`` of what is not whole: it says how many are missing, needs --partial, and the shards keep it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import mvad

from mvad import api, files
from mvad.datasets.mvtec3d import MVTec3D
from mvad.datasets.scan import ReadOptions
from mvad.datasets.shards.pack import PackOptions
from mvad.errors import PartlyDone


@pytest.fixture
def place(workspace: Path, tmp_path: Path) -> Path:
    """A folder with the generated category in ``raw`` and its renders in ``mvad-data``."""
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    shutil.copytree(workspace / "renders" / "mvtec3d", tmp_path / "mvad-data" / "renders" / "mvtec3d")
    return tmp_path


def pack(place: Path, *more: str):  # type: ignore[no-untyped-def]
    return mvad("pack", "--dataset", "mvtec3d", *more, cwd=place)


def manifest(place: Path):  # type: ignore[no-untyped-def]
    return files.read_sealed_json(place / "mvad-data" / "shards" / "mvtec3d" / "gear" / "manifest.json", "a manifest", "")


def test_a_partly_failed_render_is_packed_only_when_asked(place: Path) -> None:
    renders = place / "mvad-data" / "renders" / "mvtec3d" / "gear"
    ref = next(ref for ref in MVTec3D().refs(place / "raw", "gear", ReadOptions()) if ref.defect == "hole")
    files.remove(renders / ref.key.removeprefix("gear/"))
    content = ref.paths["rgb"].read_bytes()
    ref.paths["rgb"].write_bytes(content[:-100])
    done = mvad("render", "mvtec3d", "--raw", "raw", "--size", "64", "--backend", "cpu", cwd=place)
    assert done.returncode == 6, done.stderr
    refused = pack(place)
    assert refused.returncode == 3
    assert f"mvtec3d/gear: 1 of 14 scans are not rendered (first {ref.key}: " in refused.stderr
    assert "give --partial to pack the others" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (place / "mvad-data" / "shards").exists() or not list((place / "mvad-data" / "shards").rglob("*.h5"))
    accepted = pack(place, "--partial")
    assert accepted.returncode == 0, accepted.stderr
    assert f"missing: {ref.key}: " in accepted.stdout
    assert [entry["key"] for entry in manifest(place)["missing"]] == [ref.key]
    assert sum(entry["samples"] for entry in manifest(place)["shards"]) == 13
    card = (place / "mvad-data" / "shards" / "mvtec3d" / "gear" / "README.md").read_text()
    assert "1 sample is missing:" in card
    assert ref.key in card
    ref.paths["rgb"].write_bytes(content)
    assert mvad("render", "mvtec3d", "--raw", "raw", "--size", "64", "--backend", "cpu", cwd=place).returncode == 0
    whole = pack(place)
    assert whole.returncode == 0, whole.stderr
    assert "missing" not in manifest(place)
    assert sum(entry["samples"] for entry in manifest(place)["shards"]) == 14


def test_scans_of_which_only_pictures_are_there_are_named_to_the_end(place: Path) -> None:
    """Nothing that is run again gives them, so the others are packed; the exit code says that not all are."""
    shutil.rmtree(place / "mvad-data" / "renders" / "mvtec3d" / "gear" / "test" / "hole")
    shutil.rmtree(place / "raw" / "gear" / "test" / "hole" / "xyz")
    (place / "raw" / "gear" / "test" / "good").rename(place / "raw" / "gear" / "test" / "ok")
    shutil.rmtree(place / "mvad-data" / "renders" / "mvtec3d" / "gear" / "test" / "good")
    rendered = mvad("render", "mvtec3d", "--raw", "raw", "--size", "64", "--backend", "cpu", cwd=place)
    assert rendered.returncode == 6, rendered.stderr
    assert "notice: test/ok read as good (2 samples, first gear/test/good/" in rendered.stdout
    done = pack(place)
    assert done.returncode == 6
    assert "missing: gear/test/hole/" in done.stdout
    assert "notice: test/ok read as good (2 samples" in done.stdout
    assert "1 sample is missing from the shards" in done.stderr
    assert manifest(place)["missing"][0]["why"] == "raw"
    assert pack(place, "--partial").returncode == 0


def test_damaged_photographs_are_listed_at_once(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "raw")
    (tmp_path / "raw" / "realiad_jsons").rename(tmp_path / "raw" / "realiad_jsons_sv")
    bad = sorted((tmp_path / "raw").rglob("*.jpg"))[3:30:13]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-400])
    words = ("pack", "--dataset", "realiad", "--raw", "raw", "--size", "32")
    done = mvad(*words, "--splits", "sv", cwd=tmp_path)
    assert done.returncode == 6
    assert all(path.name in done.stdout for path in bad)
    assert "notice: its splits are those of realiad_jsons_sv" in done.stdout
    assert f"{len(bad)} samples are missing from the shards" in done.stderr
    assert mvad(*words, "--partial", cwd=tmp_path).returncode == 0
    given = ("realiad", "plate", tmp_path / "raw", tmp_path / "shards", PackOptions(size=32))
    with pytest.raises(PartlyDone, match=rf"packed without {len(bad)} samples, such as .* \(.*\); partial=True accepts that"):
        api.pack(*given, splits="sv")
    assert api.pack(*given, splits="sv", partial=True).name == "plate"
    assert "choose one" in mvad(*words, "--splits", "mv", cwd=tmp_path).stderr
