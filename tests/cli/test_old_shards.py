"""Shards of version 1: every reader refuses them by name, with the command that makes them anew, which works."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mvad import files
from mvad.cli import main
from mvad.datasets.export import source_of
from mvad.datasets.shards.layout import layout_of
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.shards.reader import open_shard, read_manifest
from mvad.datasets.shards.schema import PLACES, of_an_older_version
from mvad.errors import BadInput
from mvad.progress import Silent

RENDERS = (
    "mvad-shard 1, this version reads 2; pack again: mvad render mvtec3d --category gear --overwrite "
    "&& mvad pack --dataset mvtec3d --category gear --overwrite"
)
PHOTOGRAPHS = "mvad-shard 1, this version reads 2; pack again: mvad pack --dataset realiad --category plate --overwrite"


def text(value: str) -> np.ndarray:
    return np.array(value.encode(), h5py.string_dtype("utf-8", len(value.encode())))


def make_old(folder: Path) -> Path:
    """Make the shards, the manifest and the card of a category those of version 1."""
    manifest = files.read_sealed_json(folder / "manifest.json", "a manifest", "")
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        with h5py.File(path, "r+") as file:
            file.attrs["schema_version"] = 1
            if "pose" in file:
                shifts = -file["pose"][:, :3, 3]
                for name in (*PLACES, "rig/range"):
                    del file[name]
                    entry["fields"].pop(name)
                made = file.create_dataset("shift", data=shifts, chunks=shifts.shape, fletcher32=True, track_times=False)
                made.attrs["meaning"] = text("to add to the positions of rig/poses for this sample (renders only)")
                made.attrs["unit"] = text("metre")
        del entry["pose_numbers"]
        entry |= {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    del manifest["rig_range"]
    card = "# a card of version 1\n"
    (folder / "README.md").write_text(card)
    manifest |= {"schema_version": 1, "card_sha256": files.sha256_bytes(card.encode())}
    files.write_sealed_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def ws(workspace: Path, tmp_path: Path) -> Path:
    """A workspace whose shards are of version 1."""
    for folder in ("raw", "renders", "shards"):
        shutil.copytree(workspace / folder, tmp_path / "ws" / folder, ignore=shutil.ignore_patterns("eyecandies"))
    for category in ("mvtec3d/gear", "realiad/plate"):
        make_old(tmp_path / "ws" / "shards" / category)
    return tmp_path / "ws"


def mvad(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command in this process; return the exit code and the output, in one line."""
    before, sys.argv = sys.argv, ["mvad", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            main.run()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    code = left.value.code
    return (0 if code is None else int(code)), captured.out + captured.err


READERS: dict[str, Callable[[Path], object]] = {
    "loader": lambda folder: ShardSet(folder, "test"),
    "one file, listed": lambda folder: open_shard(folder / "test-00000.h5"),
    "one file, in a process of its own": lambda folder: layout_of(folder / "test-00000.h5", verified=False),
    "manifest": read_manifest,
    "export": source_of,
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_says_the_same_line(name: str, ws: Path) -> None:
    for category, line in (("mvtec3d/gear", RENDERS), ("realiad/plate", PHOTOGRAPHS)):
        with pytest.raises(BadInput) as caught:
            READERS[name](ws / "shards" / category)
        place = ws / "shards" / category / ("test-00000.h5" if "file" in name else "manifest.json")
        assert str(caught.value) == f"{place}: {line}"


@pytest.mark.thorough(4)
def test_inspect_verify_and_pack_say_it(ws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = ws / "shards" / "mvtec3d" / "gear" / "test-00000.h5"
    for arguments in (("inspect", shard), ("inspect", shard, "--untrusted"), ("pack", "--workspace", ws, "--category", "gear")):
        code, said = mvad(capsys, *arguments)
        assert code == 3
        assert RENDERS in said
        assert "Traceback" not in said
    for more in ((), ("--untrusted",), ("--raw", ws / "raw")):
        code, said = mvad(capsys, "verify", "--workspace", ws, *more)
        assert code == 3
        for place in ("mvtec3d/gear", "realiad/plate"):
            line = RENDERS if place == "mvtec3d/gear" else PHOTOGRAPHS
            for path in [*(ws / "shards" / place).glob("*.h5"), ws / "shards" / place / "manifest.json"]:
                assert f"{path}: {line}" in said
    alone = Path(shutil.copy(shard, ws.parent / "alone.h5"))
    code, said = mvad(capsys, "verify", alone)
    assert code == 3
    assert f"{alone}: {RENDERS}" in said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_packing_with_overwrite_replaces_them(ws: Path, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mvad(capsys, "pack", "--workspace", ws, "--size", "64", "--overwrite")[0] == 0
    options = PackOptions(size=64, shard_mb=512.0)
    pack_renders(workspace / "renders", "mvtec3d", "gear", ws.parent / "new", options, Silent())
    pack_realiad(workspace / "raw" / "realiad", "plate", ws.parent / "new", options, Silent())
    for place in ("mvtec3d/gear", "realiad/plate"):
        assert contents(ws / "shards" / place) == contents(ws.parent / "new" / place)
    assert mvad(capsys, "verify", "--workspace", ws)[0] == 0


def test_the_commands_that_are_given_work_on_renders_of_before(
    ws: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renders = ws / "renders" / "mvtec3d" / "gear"
    for path in [*renders.glob("*/*/*/record.json"), renders / "manifest.json"]:
        content = files.read_sealed_json(path, "ours", "") | {"schema": 2}
        for name in PLACES:
            content.pop(name, None)
        files.write_sealed_json(path, content)
    code, said = mvad(capsys, "pack", "--workspace", ws, "--category", "gear", "--overwrite")
    assert (code, "render again with --overwrite" in said) == (3, True)
    options = ("--size", "64", "--backend", "cpu", "--split", "train", "--split", "validation", "--split", "test")
    for command in RENDERS.partition("pack again: ")[2].split(" && "):
        name, *arguments = command.split()[1:]
        code, said = mvad(capsys, name, *arguments, "--workspace", ws, *(options if name == "render" else ()))
        assert code == 0, said
    pack_renders(workspace / "renders", "mvtec3d", "gear", ws.parent / "new", PackOptions(shard_mb=512.0), Silent())
    assert contents(ws / "shards" / "mvtec3d" / "gear") == contents(ws.parent / "new" / "mvtec3d" / "gear")


def test_repair_packs_them_again(ws: Path, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ws / "raw" / "realiad", ws / "raw" / "all" / "realiad")
    code, said = mvad(capsys, "verify", "--workspace", ws, "--repair", "--raw", ws / "raw" / "all")
    assert code == 0, said
    for place in ("mvtec3d/gear", "realiad/plate"):
        assert contents(ws / "shards" / place) == contents(workspace / "shards" / place)


def test_an_interrupted_packing_over_them_is_continued(ws: Path, workspace: Path) -> None:
    """Some files are new and logged, the others are of version 1, and the manifest is gone."""
    folder, whole = ws / "shards" / "mvtec3d" / "gear", workspace / "shards" / "mvtec3d" / "gear"
    shutil.copy(whole / "test-00000.h5", folder)
    for path in folder.glob("*.h5"):
        files.append_line(folder / "written.jsonl", {"file": path.name, "sha256": files.sha256_file(path)})
    (folder / "manifest.json").unlink()
    kept = (folder / "test-00000.h5").stat().st_mtime_ns
    pack_renders(ws / "renders", "mvtec3d", "gear", ws / "shards", PackOptions(), Silent())
    assert contents(folder) == contents(whole)
    assert (folder / "test-00000.h5").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("dataset", "category", "names"),
    [
        (
            "mvtec3d",
            "my gear",
            "mvad render mvtec3d --category 'my gear' --overwrite && mvad pack --dataset mvtec3d --category 'my",
        ),
        ("mvtec3d", "gear; rm -r x", "--category 'gear; rm -r x' --overwrite"),
        ("mvtec3d", "gear\nrm", "--category CATEGORY --overwrite"),
        ("mvtec3d", "--all", "--category CATEGORY --overwrite"),
        ("mvtec3d", "x" * 200, "--category CATEGORY --overwrite"),
        (None, 7, "mvad render DATASET --category CATEGORY --overwrite && mvad pack --dataset DATASET --category CATEGORY"),
        ("", "", "mvad render DATASET --category CATEGORY"),
    ],
)
def test_names_that_are_no_part_of_a_command_are_quoted_or_left_out(dataset: object, category: object, names: str) -> None:
    line = of_an_older_version(1, dataset, category)
    assert names in line
    assert "\n" not in line


def test_other_versions_are_not_called_older(ws: Path) -> None:
    assert [of_an_older_version(version, "a", "b") for version in (2, 3, 0, -1, "1", None, True)] == [""] * 7
    path = ws / "shards" / "mvtec3d" / "gear" / "manifest.json"
    for version in (3, None, "x" * 100):
        content = files.read_sealed_json(path, "ours", "")
        files.write_sealed_json(path, content | {"schema_version": version})
        with pytest.raises(BadInput, match=r"manifest\.json: mvad-shard '.*', this version reads 2; pack again with --overwrite"):
            ShardSet(path.parent, "test")
