"""Flipped bits, cut files, names that lead elsewhere, the wrong configuration: named, never used, never silent."""

from __future__ import annotations

import itertools
import json
import locale
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, mvad
from conftest import Sampled

from faults.tiny import CATEGORY, DATASET, OPTIONS, PACKING, ends_in_one_line, run, small_raw, tree
from mvad import files
from mvad.datasets import realiad, verify
from mvad.datasets.shards.layout import parse
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.shards.schema import FIELDS
from mvad.datasets.verify import verify_tree
from mvad.datasets.verify_inputs import verify_inputs
from mvad.errors import BadInput
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category

Flip = tuple[Path, int, int]
"""A file, the place of a byte in it, and a bit of it."""
FLIPS_A_FILE = 16
FLIPS_A_SHARD = 60
FLIPS_AN_INPUT = 2


@pytest.fixture(scope="module")
def done(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Raw data and what was made of them; tests damage and restore."""
    root = tmp_path_factory.mktemp("damage")
    raw = small_raw(workspace, root / "raw" / DATASET)
    run(raw, root / "out")
    return raw, root / "out"


def kept(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")


def flips(path: Path, count: int, seed: int) -> list[tuple[int, int]]:
    """Places and bits, spread over the whole file, so that each region is met."""
    random, size = np.random.default_rng(seed), path.stat().st_size
    edges = np.linspace(0, size, count + 1).astype(int)
    return [
        (int(random.integers(low, max(high, low + 1))), int(random.integers(8)))
        for low, high in itertools.pairwise(edges)
        if low < size
    ]


def noticed(path: Path, content: bytes, look: Callable[[], list[str]]) -> None:
    """Put another content in a file's place, look, and put it back: the file must be named."""
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        said = look()
        assert said, f"{path.name}: silent"
        assert any(path.name in line or str(path.parent) in line for line in said), f"{path.name} is not named: {said}"
        assert all("\n" not in line for line in said)
    finally:
        path.write_bytes(good)


def flipped(path: Path, place: int, bit: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    return bytes(content)


def checked(place: Path) -> Callable[[], list[str]]:
    return lambda: [fault.text for fault in verify_tree([place], Silent())[1]]


def every_flip(out: Path) -> list[Flip]:
    found = []
    for number, path in enumerate(kept(out)):
        # The last byte of a log ends its last line: without it the line still says all.
        last = path.stat().st_size - 1 if path.suffix == ".jsonl" else None
        every = flips(path, FLIPS_A_SHARD if path.suffix == ".h5" else FLIPS_A_FILE, number)
        found += [(path, place, bit) for place, bit in every if place != last]
    return found


def flip_and_look(chosen: Sequence[Flip]) -> None:
    for path, place, bit in chosen:
        noticed(path, flipped(path, place, bit), checked(path.parent))


def test_every_flipped_bit_of_every_kind_of_output_is_named(
    done: tuple[Path, Path], tell: Callable[[str], None], sampled: Sampled
) -> None:
    _, out = done
    assert checked(out)() == []
    kinds = {path.name.rstrip("0123456789").split("_")[0].split("-")[0] + path.suffix for path in kept(out)}
    assert len(kinds) >= 12, kinds
    every = every_flip(out)
    assert len(every) >= 500
    chosen = sampled(every, 10)
    assert {path for path, _, _ in chosen} == set(kept(out)), "each file is met"
    flip_and_look(chosen)
    tell(f"{len(chosen)} of {len(every)} flips in {len(kept(out))} files of {len(kinds)} kinds: 0 silent")
    assert checked(out)() == []


@pytest.mark.thorough(6)
def test_a_flipped_bit_in_any_field_of_a_shard_is_named(
    done: tuple[Path, Path], tmp_path: Path, tell: Callable[[str], None]
) -> None:
    """By the hash in the manifest, and without a manifest by the sum of the field's chunk."""
    path = next((done[1] / "shards").rglob("test-*.h5"))
    fields = parse(path).fields
    assert set(fields) == set(FIELDS)
    count = 0
    for name, field in fields.items():
        for offset, length in field.chunks:
            for place in sorted({offset, offset + length // 2, offset + length - 1}):
                damaged = flipped(path, place, place % 8)
                noticed(path, damaged, checked(path.parent))
                alone = tmp_path / "alone.h5"
                alone.write_bytes(damaged)
                said = [fault.text for fault in verify_tree([alone], Silent())[1]]
                assert any(f"of {name} is damaged" in line or f"alone.h5: {name} is damaged" in line for line in said), (
                    name,
                    said,
                )
                count += 1
    tell(f"{count} flips in {len(fields)} fields: 0 silent")


def test_a_flipped_bit_is_met_by_whoever_reads(done: tuple[Path, Path], tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Not only by verify: packing refuses a changed render, and the loader a changed shard."""
    _, out = done
    count = 0
    for number, path in enumerate(kept(out / "shards")):
        if path.suffix == ".h5":
            split = path.name.split("-")[0]
            for place, bit in flips(path, 40, 100 + number):
                noticed(
                    path, flipped(path, place, bit), lambda s=split, p=path: [ends_in_one_line(lambda: ShardSet(p.parent, s))]
                )  # type: ignore[misc]
                count += 1
    samples = [path for path in kept(out / "renders") if path.parent.parent.parent.parent.name == CATEGORY]
    assert len(samples) == 2 * (5 * OPTIONS.rig.views + 1)
    for number, path in enumerate(samples):
        for place, bit in flips(path, 2, 200 + number):
            target = tmp_path / f"{number}-{place}-{bit}"
            noticed(
                path,
                flipped(path, place, bit),
                lambda t=target: [
                    ends_in_one_line(lambda: pack_renders(out / "renders", DATASET, CATEGORY, t, PACKING, Silent()))
                ],  # type: ignore[misc]
            )
            count += 1
    tell(f"{count} flips met by readers: 0 used")


@pytest.mark.thorough(4)
def test_every_kind_of_output_cut_short_is_named(done: tuple[Path, Path], tell: Callable[[str], None]) -> None:
    _, out = done
    count = 0
    for path in kept(out):
        good = path.read_bytes()
        for size in {0, 1, len(good) // 2, len(good) - 1}:
            if path.suffix == ".jsonl" and (size == 0 or b"\n" in good[size - 1 : size + 1]):
                continue  # whole lines: a log may end anywhere
            noticed(path, good[:size], checked(path.parent))
            count += 1
    tell(f"{count} cuts: 0 silent")


@pytest.mark.thorough(4)
def test_flips_and_cuts_of_the_inputs_are_named(workspace: Path, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """What a scan or a photograph was is known from its record, long after it was rendered or packed."""
    for folder in ("renders", "shards"):
        shutil.copytree(workspace / folder, tmp_path / folder)
    for dataset in ("mvtec3d", "eyecandies", "realiad"):
        shutil.copytree(workspace / "raw" / dataset, tmp_path / "raw" / dataset / dataset)

    def look(dataset: str) -> list[str]:
        """Compare a folder of raw data that holds this dataset alone."""
        raw = tmp_path / "raw" / dataset
        try:
            return [fault.text for fault in verify_inputs(tmp_path / "renders", tmp_path / "shards", raw, Silent())[1]]
        except BadInput as error:
            return [str(error)]

    assert look("mvtec3d") == look("eyecandies") == look("realiad") == []
    count, kinds = 0, set()
    for dataset, pattern in (
        ("mvtec3d", "gear/test/dent/*/*"), ("eyecandies", "dome/test_public/data/*"), ("realiad", "realiad_256/plate/NG/*/*/*"), ("realiad", "realiad_jsons/*"),
    ):  # fmt: skip
        for number, path in enumerate(sorted((tmp_path / "raw" / dataset / dataset).glob(pattern))):
            kind = (dataset, path.parent.name if dataset == "mvtec3d" else path.stem.split("_", 1)[-1] + path.suffix)
            if dataset == "realiad":
                kind = (dataset, path.suffix)
            if kind in kinds or not path.is_file() or not path.stat().st_size:
                continue
            good = path.read_bytes()
            for content in [flipped(path, *flip) for flip in flips(path, FLIPS_AN_INPUT, number)] + [b"", good[: len(good) // 2]]:
                path.write_bytes(content)
                if look(dataset):
                    count += 1
                    kinds.add(kind)
                else:
                    assert path.name.endswith(UNUSED), f"{path}: silent"
                path.write_bytes(good)
    assert look("mvtec3d") == look("eyecandies") == look("realiad") == []
    tell(f"{count} flips and cuts in {len(kinds)} kinds of input: 0 silent")
    assert len(kinds) >= 10, kinds


UNUSED = (
    "image_0.png",
    "image_1.png",
    "image_2.png",
    "image_3.png",
    "image_5.png",
    "bumps_mask.png",
    "dents_mask.png",
    "colors_mask.png",
    "normals_mask.png",
)
"""Items of an Eyecandies sample that nothing is made from."""


LEAD_OUT = ("../../secret", "/etc", "a/../../../secret")


def lead_out(out: Path, tmp_path: Path, name: str) -> list[str]:
    """Put a name that leaves its folder into each file of ours that holds names; return what readers say."""
    shutil.copytree(out, tmp_path / "out")
    renders, shards = tmp_path / "out" / "renders" / DATASET / CATEGORY, tmp_path / "out" / "shards" / DATASET / CATEGORY
    said = []

    def changed(path: Path, change: Callable[[dict[str, object]], None], look: Callable[[], object]) -> None:
        content = files.read_sealed_json(path, "ours", "")
        before = path.read_bytes()
        change(content)
        files.write_sealed_json(path, content)
        said.append(ends_in_one_line(look))
        path.write_bytes(before)

    def pack() -> object:
        return pack_renders(tmp_path / "out" / "renders", DATASET, CATEGORY, tmp_path / "new", PACKING, Silent())

    for key in ("split", "id"):
        changed(renders / "manifest.json", lambda m, key=key: m["samples"][0].update({key: name}), pack)  # type: ignore[misc, index, attr-defined]
    changed(shards / "manifest.json", lambda m: m["shards"][0].update({"file": name}), lambda: ShardSet(shards, "test"))  # type: ignore[index, attr-defined]
    record = next(renders.rglob("record.json"))
    faults: list[str] = []
    content = files.read_sealed_json(record, "ours", "")
    content["outputs"][name] = "0" * 64
    files.write_sealed_json(record, content)
    faults += [fault.text for fault in verify_tree([record.parent], Silent())[1]]
    assert any("leads out" in text for text in faults)
    return said


@pytest.mark.parametrize("name", LEAD_OUT)
def test_names_that_lead_out_of_their_folder_are_refused(name: str, done: tuple[Path, Path], tmp_path: Path) -> None:
    said = lead_out(done[1], tmp_path, name)
    assert len(said) == 3
    assert all("leads out" in line for line in said), said


MALFORMED = {
    "no list": lambda m: m.update({"samples": 7, "shards": 7}),
    "no entries": lambda m: m.update({"samples": [7], "shards": ["x"]}),
    "numbers for names": lambda m: [entry.update({"split": 3, "sha256": 3}) for entry in m.get("samples", m.get("shards"))],
    "nothing": lambda m: m.clear(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_sealed_manifest_of_another_form_is_one_line(name: str, done: tuple[Path, Path], tmp_path: Path) -> None:
    """A seal says that nothing changed since it was made, not that mvad made it."""
    shutil.copytree(done[1], tmp_path / "out")
    renders, shards = tmp_path / "out" / "renders" / DATASET / CATEGORY, tmp_path / "out" / "shards" / DATASET / CATEGORY
    for folder in (renders, shards):
        content = files.read_sealed_json(folder / "manifest.json", "ours", "")
        MALFORMED[name](content)
        files.write_sealed_json(folder / "manifest.json", content)
    assert "manifest.json" in ends_in_one_line(lambda: ShardSet(shards, "test"))
    assert "manifest.json" in ends_in_one_line(
        lambda: pack_renders(tmp_path / "out" / "renders", DATASET, CATEGORY, tmp_path / "new", PACKING, Silent())
    )
    said = checked(tmp_path / "out")()
    assert all("\n" not in line for line in said)
    assert len([line for line in said if "manifest.json" in line]) >= 2 or name == "nothing"


STRANGE_SPLITS = {
    "byte order mark": (lambda text: "\ufeff" + text, ""),
    "not a number": (lambda text: text.replace('"pre_transform": false', '"pre_transform": NaN'), ""),
    "deep": (lambda text: "[" * 100_000, "not readable"),
    "a key twice": (lambda text: text.replace('"train"', '"train": [], "train"', 1), "train occurs twice"),
    "a million entries": (
        lambda text: json.dumps({"meta": json.loads(text)["meta"], "train": [0] * 1_000_001, "test": []}),
        "at most 1000000 entries",
    ),
    "text": (lambda text: "hello", "not readable"),
    "empty": (lambda text: "", "not readable"),
    "number": (lambda text: "7", "expected meta"),
}


@pytest.mark.parametrize("name", STRANGE_SPLITS)
def test_strange_split_files_are_read_or_refused_in_one_line(name: str, workspace: Path, tmp_path: Path) -> None:
    change, message = STRANGE_SPLITS[name]
    folder = tmp_path / "realiad_jsons"
    folder.mkdir()
    text = (workspace / "raw" / "realiad" / "realiad_jsons" / "plate.json").read_text()
    (folder / "plate.json").write_text(change(text))
    if not message:
        assert len(realiad.refs(tmp_path, "plate")) == len(realiad.refs(workspace / "raw" / "realiad", "plate"))
    else:
        assert message in ends_in_one_line(lambda: realiad.refs(tmp_path, "plate"))


def test_another_schema_over_old_output_is_refused(done: tuple[Path, Path], tmp_path: Path) -> None:
    raw, out = done
    shutil.copytree(out, tmp_path / "out")
    record = next((tmp_path / "out" / "renders").rglob("record.json"))
    files.write_sealed_json(record, files.read_sealed_json(record, "ours", "") | {"schema": 1})
    assert "schema 1, this version reads 3; render again with --overwrite" in ends_in_one_line(lambda: run(raw, tmp_path / "out"))
    render_category(DATASET, CATEGORY, raw, tmp_path / "out" / "renders", OPTIONS, ("train", "test"), Workers(), True, Silent())
    assert tree(tmp_path / "out" / "renders") == tree(out / "renders")


@pytest.mark.thorough(6)
def test_two_packs_on_one_output_do_not_mix(done: tuple[Path, Path]) -> None:
    _, out = done
    with files.locked(out / "shards" / DATASET / CATEGORY):
        second = mvad("pack", "--workspace", str(out), "--shard-mb", "0.2")
    assert second.returncode == 3
    assert "another mvad is writing here" in second.stderr
    assert checked(out)() == []


def spaces(tmp_path: Path) -> Path:
    return tmp_path / "ein Ordner mit Leerzeichen und Ümläuten, 多视角"


def long(tmp_path: Path) -> Path:
    return tmp_path.joinpath(*["x" * 60] * 5)


def linked(tmp_path: Path) -> Path:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    return tmp_path / "link"


@pytest.mark.parametrize("place", [spaces, long, linked])
def test_odd_places_give_the_same_bytes(place: Callable[[Path], Path], done: tuple[Path, Path], tmp_path: Path) -> None:
    raw, out = done
    there = place(tmp_path)
    shutil.copytree(raw, there / "raw")
    for path in sorted((there / "raw").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    run(there / "raw", there / "out")
    assert tree(there / "out") == tree(out)


@pytest.mark.thorough(6)
def test_odd_surroundings_give_the_same_bytes(done: tuple[Path, Path], tmp_path: Path) -> None:
    raw, out = done
    code = (
        "import os, sys; os.umask(0o077); sys.path[:0] = sys.argv[1].split(os.pathsep)\n"
        "from pathlib import Path; from faults.tiny import run; run(Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    environment = os.environ | {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONUTF8": "0", "PYTHONHASHSEED": "7"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    subprocess.run([sys.executable, "-c", code, path, str(raw), str(tmp_path)], check=True, env=environment, timeout=120)
    assert tree(tmp_path) == tree(out)
    assert (tmp_path / "shards" / DATASET / CATEGORY / "manifest.json").stat().st_mode & 0o077 == 0
    assert locale.getlocale() is not None


# Each protection taken away once: the group must fail without it.


def test_without_comparing_hashes_the_flips_fail(
    done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, sampled: Sampled
) -> None:
    monkeypatch.setattr(verify.Check, "compare", lambda self, path, sha256, remedy: self.seen.add(path))
    with pytest.raises(AssertionError, match="silent"):
        flip_and_look(sampled(every_flip(done[1]), 10))


def test_without_seals_the_flips_fail(done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_sealed_json", lambda path, kind, remedy: json.loads(path.read_text(errors="replace")))
    sealed = [flip for flip in every_flip(done[1]) if flip[0].suffix == ".json"]
    with pytest.raises((AssertionError, ValueError, KeyError)):
        flip_and_look(sealed)


def test_without_the_shards_hash_the_flips_fail(done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Structure, attributes and room between chunks are covered by the manifest's hash alone."""
    _, out = done
    good = files.sha256_file
    path = next((out / "shards").rglob("test-*.h5"))
    listed = good(path)
    monkeypatch.setattr(files, "sha256_file", lambda p: listed if p == path else good(p))

    def all_of_them() -> None:
        for place, bit in flips(path, 200, 9):
            noticed(path, flipped(path, place, bit), checked(path.parent))

    with pytest.raises(AssertionError, match="silent"):
        all_of_them()


def test_without_the_guard_names_lead_out(done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "inside", lambda root, name: root / name)
    with pytest.raises((AssertionError, FileNotFoundError)):
        assert all("leads out" in line for line in lead_out(done[1], tmp_path, LEAD_OUT[0]))


def test_without_the_lock_two_packs_would_mix(done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    with files.locked(tmp_path), files.locked(tmp_path):
        pass
    monkeypatch.undo()
    with files.locked(tmp_path):
        assert "another mvad" in ends_in_one_line(lambda: files.locked(tmp_path).__enter__())


def test_without_the_comparison_another_packing_would_be_taken(
    done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[1], tmp_path / "out")
    other = PackOptions(filter="lz4", shard_mb=0.2)

    def again() -> object:
        return pack_renders(tmp_path / "out" / "renders", DATASET, CATEGORY, tmp_path / "out" / "shards", other, Silent())

    assert "filter = zstd, this run asks for lz4" in ends_in_one_line(again)
    monkeypatch.setattr("mvad.datasets.shards.pack._check_same_configuration", lambda folder, wanted: None)
    with pytest.raises(AssertionError, match="went through"):
        ends_in_one_line(again)
