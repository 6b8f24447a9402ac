"""Broken, hostile and odd scans: one line each, the others finished, no number in an output that is none."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import small_options

from mvad.datasets.renders.record import read_record, read_sample
from mvad.progress import Silent
from mvad.render.engine import Workers
from mvad.render.job import render_category

Scan = tuple[np.ndarray, np.ndarray]


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def points(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    def apply(xyz: Path, rgb: Path) -> None:
        xyz.write_bytes(tiff(change(tifffile.imread(xyz)), photometric="rgb"))

    return apply


def at(index: object, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


def one_point(array: np.ndarray) -> np.ndarray:
    middle = array[array.shape[0] // 2, array.shape[1] // 2].copy()
    array[:] = 0
    array[5, 5] = middle + np.array([0, 0, 0.6], np.float32)
    return array


def one_row(array: np.ndarray) -> np.ndarray:
    array[np.arange(len(array)) != len(array) // 2] = 0
    return array


def colours(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    def apply(xyz: Path, rgb: Path) -> None:
        rgb.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(change(imagecodecs.png_decode(rgb.read_bytes())))))

    return apply


def content(which: int, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def apply(*paths: Path) -> None:
        paths[which].write_bytes(change(paths[which].read_bytes()))

    return apply


REFUSED: dict[str, Callable[[Path, Path], None]] = {
    "all NaN": points(at(np.s_[:], np.nan)),
    "all zero": points(at(np.s_[:], 0)),
    "all infinite": points(at(np.s_[:], np.inf)),
    "all 1e30": points(at(np.s_[:], 1e30)),
    "all behind the sensor": points(lambda a: -a),
    "denormals": points(at(np.s_[:], 1e-40)),
    "all the same point": points(at(np.s_[:], 0.5)),
    "one point": points(one_point),
    "one row": points(one_row),
    "float16": points(lambda a: a.astype(np.float16)),
    "uint16": points(lambda a: a.astype(np.uint16)),
    "two channels": lambda xyz, rgb: xyz.write_bytes(tiff(tifffile.imread(xyz)[..., :2])) and None,
    "one channel": lambda xyz, rgb: xyz.write_bytes(tiff(tifffile.imread(xyz)[..., 2])) and None,
    "several pages": lambda xyz, rgb: xyz.write_bytes(tiff(np.stack([tifffile.imread(xyz)] * 2), photometric="rgb")) and None,
    "colours of another size": colours(lambda a: a[:-3]),
    "grey colours": colours(lambda a: a[..., 0]),
    "16-bit colours": colours(lambda a: a.astype(np.uint16) * 200),
    "colours with alpha": colours(lambda a: np.concatenate([a, a[..., :1]], axis=2)),
    "empty points": content(0, lambda data: b""),
    "empty colours": content(1, lambda data: b""),
    "text for points": content(0, lambda data: b"no picture\n" * 40),
    "text for colours": content(1, lambda data: b"no picture\n" * 40),
    "half of the points": content(0, lambda data: data[: len(data) // 2]),
    "half of the colours": content(1, lambda data: data[: len(data) // 2]),
    "one byte less of the points": content(0, lambda data: data[:-1]),
    "no colours": lambda xyz, rgb: rgb.unlink(),
    "a flipped bit in the colours": content(1, lambda d: d[: len(d) // 2] + bytes([d[len(d) // 2] ^ 4]) + d[len(d) // 2 + 1 :]),
}
RENDERED: dict[str, Callable[[Path, Path], None]] = {
    "some NaN": points(at(np.s_[40:60, 50:70], np.nan)),
    "some infinite": points(at(np.s_[40:60, 50:70], np.inf)),
    "some 1e30": points(at(np.s_[40:60, 50:70, 2], 1e30)),
    "some negative depth": points(at(np.s_[40:60, 50:70, 2], -0.5)),
    "some denormal": points(at(np.s_[40:60, 50:70], 1e-40)),
    "one wild point": points(at(np.s_[50, 60, 2], 90.0)),
    "one point before the lens": points(at(np.s_[50, 60, 2], 1e-6)),
}


@pytest.fixture(scope="module")
def rendered(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, str]]:
    """One category with every fault, each in a scan of its own: folder, reasons by fault, keys by fault."""
    raw = tmp_path_factory.mktemp("hostile")
    shutil.copytree(workspace / "raw" / "mvtec3d" / "gear", raw / "gear")
    good = raw / "gear" / "validation" / "good"
    template = sorted((good / "xyz").iterdir())[0].stem
    keys = {}
    for number, (fault, apply) in enumerate((REFUSED | RENDERED).items()):
        paths = [good / kind / f"{900 + number}{suffix}" for kind, suffix in (("xyz", ".tiff"), ("rgb", ".png"))]
        for path in paths:
            shutil.copy(path.with_stem(template), path)
        apply(*paths)
        keys[fault] = f"gear/validation/good/{900 + number}"
    done = render_category(
        "mvtec3d", "gear", raw, raw / "renders", small_options(), ("train", "validation", "test"), Workers(), False, Silent()
    )
    lines = [json.loads(line) for line in (done.folder / "failed.jsonl").read_text().splitlines()]
    reasons = {line["key"]: line["reason"] for line in lines}
    return done.folder, {fault: reasons.get(key, "") for fault, key in keys.items()}, keys


@pytest.mark.parametrize("fault", REFUSED)
def test_a_hostile_scan_is_one_line_that_names_its_file(
    fault: str, rendered: tuple[Path, dict[str, str], dict[str, str]]
) -> None:
    folder, reasons, keys = rendered
    assert reasons[fault], fault
    assert "\n" not in reasons[fault]
    assert "Error:" not in reasons[fault], "an error of ours or a library's, not a finding about the scan"
    assert keys[fault].rsplit("/", 1)[1] in reasons[fault], "the file is named"
    assert not (folder / keys[fault].split("/", 1)[1]).exists()


@pytest.mark.parametrize("fault", RENDERED)
def test_an_odd_scan_is_rendered_without_a_number_that_is_none(
    fault: str, rendered: tuple[Path, dict[str, str], dict[str, str]]
) -> None:
    folder, _, keys = rendered
    sample = folder / keys[fault].split("/", 1)[1]
    record = read_record(sample)
    assert "NaN" not in (sample / "record.json").read_text()
    images = read_sample(sample, record)
    seen = images.source >= 0
    assert seen.any(axis=(1, 2)).all()
    depth = images.coding.decode(images.depth)
    assert np.isfinite(depth).all()
    assert ((depth > 0) == seen).all()
    assert (images.normal.any(axis=-1) == seen).all()


def test_all_the_other_scans_are_finished(rendered: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    folder, reasons, _ = rendered
    assert len(list(folder.glob("*/*/*/record.json"))) == 14 + len(RENDERED)
    assert sum(bool(reason) for reason in reasons.values()) == len(REFUSED)


def test_every_flipped_bit_of_a_scan_is_refused_or_harmless(workspace: Path, tmp_path: Path) -> None:
    """Compressed points carry a sum, PNG a CRC: what decodes at all must render to finite numbers."""
    raw = tmp_path / "raw"
    shutil.copytree(workspace / "raw" / "mvtec3d" / "gear", raw / "gear")
    good = raw / "gear" / "validation" / "good"
    template = sorted((good / "xyz").iterdir())[0].stem
    rng = np.random.default_rng(7)
    for number in range(40):
        kind, suffix = (("xyz", ".tiff"), ("rgb", ".png"))[number % 2]
        for name, end in (("xyz", ".tiff"), ("rgb", ".png")):
            shutil.copy(good / name / f"{template}{end}", good / name / f"{800 + number}{end}")
        path = good / kind / f"{800 + number}{suffix}"
        data = bytearray(path.read_bytes())
        data[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(data)
    done = render_category(
        "mvtec3d", "gear", raw, tmp_path / "out", small_options(), ("train", "validation"), Workers(), False, Silent()
    )
    assert done.failed + done.rendered == 4 + 1 + 40
    assert done.failed >= 30, "nearly all are noticed"
    for record in done.folder.glob("validation/good/8*/record.json"):
        images = read_sample(record.parent, read_record(record.parent))
        assert np.isfinite(images.coding.decode(images.depth)).all()
    assert not list(done.folder.rglob("*.part-*"))
