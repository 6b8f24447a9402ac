"""Raw scans, maps and tables that are changed at random, through render, pack and evaluate: one line, or the right labels.

Each round changes some inputs of a small category; whatever comes of it must be an error of one line, a scan that is named as
failed, or a sample with its own label, which is marked only if it is defective, and unmarked only with a notice.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import is_thorough
from numpy.random import Generator
from PIL import Image

from mvad.datasets.registry import RawScans
from mvad.datasets.scan import GOOD
from mvad.datasets.shards.loader import ShardSet
from mvad.datasets.shards.pack import PackOptions, pack_renders
from mvad.datasets.shards.reader import read_manifest
from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.errors import MvadError
from mvad.model.evaluation.results import Results
from mvad.model.exchange.imported_maps import SCORES, evaluate_scan_maps
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

COUNT = int(os.environ.get("MVAD_FUZZ_INPUTS") or (10_000 if is_thorough() else 64))
"""How many inputs are changed."""

CHUNKS = 8
AT_ONCE = 6
OPTIONS = RenderOptions(backend="cpu", rig=RigOptions(size=64, views=2))
SPLITS = ("train", "validation", "test")


# ------------------------------------------------------------------------------------------------- changes of a file


def cut_off(path: Path, random: Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(random.integers(0, len(content)))])


def damage(path: Path, random: Generator) -> None:
    """Change bytes, mostly of the header."""
    content = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 9))):
        end = len(content) if random.random() < 0.3 else min(300, len(content))
        content[int(random.integers(0, end))] = int(random.integers(0, 256))
    path.write_bytes(bytes(content))


def pointer(path: Path, random: Generator) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n")


def remove(path: Path, random: Generator) -> None:
    path.unlink()


def rename(path: Path, random: Generator) -> None:
    names = (path.name.upper(), f"._{path.name}", f"{path.stem}.tif", f"{path.stem}.jpg", f"{path.stem} (1){path.suffix}",
             f"x{path.name}", f"{path.stem}ü{path.suffix}", f"{path.stem}.part-1{path.suffix}", f"{path.stem}.npy", f".{path.name}",
             f"{path.stem}{path.suffix}~", f"{path.stem}\n{path.suffix}" if random.random() < 0.1 else path.name)  # fmt: skip
    path.rename(path.with_name(str(random.choice(names))))


def duplicate(path: Path, random: Generator) -> None:
    target = path.with_suffix(str(random.choice([".tif", ".png", ".jpg", ".TIFF", ".bak"])))
    if target != path:
        shutil.copy(path, target)


def move_away(path: Path, random: Generator) -> None:
    """Put a file into another folder of the category."""
    root = path.parents[3]
    target = root / str(random.choice(["train/good", "test/good", "test/dent", "validation/good"])) / path.parent.name
    target.mkdir(parents=True, exist_ok=True)
    if not (target / path.name).exists():
        path.rename(target / path.name)


def points(path: Path, random: Generator) -> None:
    try:
        xyz = tifffile.imread(path)
    except Exception:  # it was damaged before
        return
    changed: list[Callable[[], np.ndarray]] = [
        lambda: xyz.astype(np.float64), lambda: xyz * 1000, lambda: xyz.astype(np.float16), lambda: np.moveaxis(xyz, -1, 0),
        lambda: np.concatenate([xyz, np.ones_like(xyz[..., :1])], axis=-1), lambda: np.full_like(xyz, np.nan),
        lambda: np.zeros_like(xyz), lambda: -xyz, lambda: xyz[: len(xyz) // 2], lambda: xyz[..., 2],
        lambda: np.where(random.random(xyz.shape[:2])[..., None] < 0.9, 0, xyz), lambda: xyz * 1e30, lambda: xyz[::-1],
        lambda: (xyz * 10000).astype(np.int16), lambda: np.pad(xyz, ((20, 20), (30, 30), (0, 0))), lambda: np.full_like(xyz, np.inf),
    ]  # fmt: skip
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(path, changed[int(random.integers(len(changed)))]())


def picture(path: Path, random: Generator) -> None:
    try:
        image = Image.open(path)
        image.load()
    except Exception:
        return
    mode = str(random.choice(["RGBA", "L", "P", "1", "I;16", "CMYK", "half", "JPEG"]))
    if mode == "half":
        image.resize((max(1, image.width // 2), max(1, image.height // 2))).save(path)
    elif mode == "JPEG":
        image.convert("RGB").save(path, format="JPEG")
    elif mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    elif mode == "CMYK":
        image.convert("CMYK").save(path, format="TIFF")
    else:
        image.convert(mode).save(path)


def mask(path: Path, random: Generator) -> None:
    try:
        levels = np.asarray(Image.open(path).convert("L"))
    except Exception:
        return
    truth = levels > 0
    soft = np.asarray(Image.fromarray(levels).resize((levels.shape[1] // 2, levels.shape[0] // 2)).resize(levels.shape[::-1]))
    changed = (
        truth.astype(np.uint8), truth * np.uint8(2), truth * np.uint8(128), soft, levels // 2 + 1, 255 - levels, levels * 0,
        np.where(truth, random.integers(1, 4, truth.shape), 0).astype(np.uint8), levels[: len(levels) // 2],
        (random.random(levels.shape) < 0.5) * np.uint8(255), np.where(truth, random.integers(40, 255, truth.shape), 0).astype(np.uint8),
    )  # fmt: skip
    values = changed[int(random.integers(len(changed)))]
    if random.random() < 0.3:
        Image.fromarray(values).save(path, format="JPEG", quality=int(random.integers(20, 95)))
    else:
        Image.fromarray(values).save(path)


def litter(path: Path, random: Generator) -> None:
    """Put things beside a file that are none of the data."""
    name = str(random.choice([".DS_Store", "Thumbs.db", "._000.tiff", "desktop.ini", "README.txt", "000.tiff.tmp", "log"]))
    (path.parent / name).write_bytes(random.bytes(50))
    if random.random() < 0.3:
        (path.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
        shutil.copy(path, path.parent / ".ipynb_checkpoints" / path.name)


def folder(path: Path, random: Generator) -> None:
    """Give a folder of a split or defect another name."""
    place = path.parents[int(random.integers(1, 3))]
    names = ["Good", "ok", "normal", "OK", "bad", "val", "testing", "Test", ".hidden", "good ", "dent_2", "train"]
    target = place.with_name(str(random.choice(names)))
    if place.exists() and not target.exists() and place.name not in ("raw", "gear"):
        place.rename(target)


ANY = (cut_off, damage, pointer, remove, rename, duplicate, move_away, litter)
OF_KIND = {"xyz": (*ANY, points, points, points), "rgb": (*ANY, picture, picture), "gt": (*ANY, mask, mask, mask, mask)}


# ------------------------------------------------------------------------------------------------- what must hold


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the raw data of a small category, two training scans and a scan of each defect."""
    raw = tmp_path_factory.mktemp("mutated") / "raw"
    generate("mvtec3d", raw, ["gear"], SynthOptions(3, 2, 1, 2, 1, 64), Silent())
    return raw


def one_line(error: Exception) -> None:
    assert isinstance(error, MvadError), repr(error)
    assert str(error).strip()
    assert "\n" not in str(error), str(error)


def inputs_of(raw: Path) -> list[Path]:
    return sorted(path for path in raw.rglob("*") if path.is_file() and path.parent.name in OF_KIND)


def check_render_and_pack(raw: Path, place: Path) -> int:
    """Return the number of samples that were packed."""
    try:
        done = render_category("mvtec3d", "gear", raw, place / "renders", OPTIONS, SPLITS, Workers(), False, Silent())
        pack_renders(
            place / "renders", "mvtec3d", "gear", place / "shards", replace(PackOptions(), shard_mb=4), Silent(), partial=True
        )
    except MvadError as error:
        one_line(error)
        return 0
    manifest = read_manifest(place / "shards" / "mvtec3d" / "gear")
    told = " ".join(done.notes) + str(manifest.get("notes", ""))
    missing = {entry["key"] for entry in manifest.get("missing", ())}
    packed: set[str] = set()
    for split in {entry["split"] for entry in manifest["shards"]}:
        data = ShardSet(place / "shards" / "mvtec3d" / "gear", split, ["rgb"])
        for k, key in enumerate(data.keys):
            packed.add(key)
            defect, batch = key.split("/")[2], data.batch([k])
            marked = bool(batch.mask.any())
            assert bool(batch.label[0]) == (defect != GOOD), key
            assert split == "test" or defect == GOOD, f"{key}: a defect among the normal scans"
            assert not marked or defect != GOOD, f"{key}: a good scan is marked"
            if defect != GOOD and not marked:
                assert "mask" in told or key in str(done.audit["invisible"]), (
                    f"{key}: a defect without marks, and nothing is said"
                )
    for path in raw.glob("gear/*/*/xyz/*"):
        name = path.relative_to(raw)
        if any(part.startswith(".") for part in name.parts) or path.suffix.lower() not in (".tiff", ".tif"):
            continue
        key = f"gear/{name.parts[1]}/{name.parts[2].strip()}/{path.stem}"
        also = {key.replace(f"/{a}/", f"/{b}/") for a, b in (("ok", GOOD), ("OK", GOOD), ("Good", GOOD), ("normal", GOOD))}
        also |= {
            each.replace("/val/", "/validation/").replace("/Test/", "/test/").replace("/testing/", "/test/") for each in also
        }
        assert (also | {key}) & (packed | missing), f"{key}: vanished"
    return len(packed)


def changed_table(keys: list[str], random: Generator) -> str:
    rows = [f"{key},{random.random():.4f}" for key in keys]
    for _ in range(int(random.integers(0, 3))):
        at = int(random.integers(len(rows)))
        choice = int(random.integers(9))
        key, _, score = rows[at].partition(",")
        rows[at] = (
            rows[at], f"{key},{score}\n{key},0.5", f"{key}.png,{score}", f"{key.removeprefix('gear/')},{score}", f"{key};{score}",
            f"{key},nan", f" {key},{score}", f'"{key}",{score}', f"{key},{score},extra",
        )[choice]  # fmt: skip
        if random.random() < 0.2:
            del rows[at]
        if not rows:
            break
    start = str(random.choice(["key,score", "key,score", "key,score", "score,key", "image,score", "\ufeffkey,score", ""]))
    return start + str(random.choice(["\n", "\r\n"])).join(["", *rows]) + "\n"


def check_evaluation(base: Path, place: Path, random: Generator) -> int:
    """Change maps and their table, and evaluate them; return how many inputs were changed."""
    scans, maps = RawScans("mvtec3d", base, "gear"), place / "maps"
    refs = scans.of_split("test")
    for ref in refs:
        target = maps / f"{ref.key}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, random.random((16, 16)).astype(np.float32))
    changes = 1
    if random.random() < 0.5:
        path = maps / f"{refs[int(random.integers(len(refs)))].key}.npy"
        change = (cut_off, damage, remove, duplicate)[int(random.integers(4))]
        change(path, random)
        changes += 1
    text = changed_table([ref.key for ref in refs], random)
    (maps / SCORES).write_bytes(text.encode())
    try:
        found: Results = evaluate_scan_maps(place / "run", "M", maps, scans, Silent())
    except MvadError as error:
        one_line(error)
        return changes
    table = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    given = {row["key"] if row["key"].startswith("gear/") else f"gear/{row['key']}": float(row["score"]) for row in table}
    assert len(table) == len(given) == len(refs)
    assert {sample.key: sample.score for sample in found.samples} == given, "each score is that of its scan"
    return changes


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_mutated_inputs_give_one_line_or_the_right_labels(chunk: int, base: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1000 + chunk)
    changed, number, packed = 0, 0, 0
    while changed < COUNT / CHUNKS:
        place = tmp_path / str(number)
        shutil.copytree(base, place / "raw")
        what = []
        for path in random.permutation(np.array([str(p) for p in inputs_of(place / "raw")]))[:AT_ONCE]:
            found = Path(path)
            if not found.exists():
                continue
            kind = OF_KIND[found.parent.name]
            change = folder if random.random() < 0.02 else kind[int(random.integers(len(kind)))]
            what.append(f"{change.__name__} {found.relative_to(place)}")
            change(found, random)
        changed += len(what)
        try:
            packed += check_render_and_pack(place / "raw", place)
            changed += check_evaluation(base, place, random)
        except BaseException as error:
            error.add_note(f"chunk {chunk}, round {number}: " + "; ".join(what))
            raise
        shutil.rmtree(place)
        number += 1
    print(f"{changed} mutated inputs in {number} rounds, {packed} samples packed")
    assert packed > number or number < 10, "most rounds come to an end"
