"""A whole render job: resume, failures, refusals, equal bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Sampled, small_options

from mvad import files
from mvad.datasets.registry import reader_for
from mvad.datasets.renders.coding import decode_normal
from mvad.datasets.renders.record import read_manifest, read_record, read_sample
from mvad.datasets.scan import ReadOptions, Scan
from mvad.errors import BadInput, MissingComponent
from mvad.progress import Silent
from mvad.render.backends.choose import rasteriser
from mvad.render.cameras import stand_before
from mvad.render.clean import Cleaned, clean
from mvad.render.engine import Workers
from mvad.render.job import Summary, render_category
from mvad.render.options import RenderOptions, RigOptions, SurfaceOptions
from mvad.render.render_views import render_views
from mvad.render.rig import Rig
from mvad.render.surface import build_surface

SPLITS = ("train", "validation", "test")


def render(
    raw: Path,
    out: Path,
    options: RenderOptions | None = None,
    splits: Sequence[str] = SPLITS,
    workers: Workers = Workers(),
    overwrite: bool = False,
) -> Summary:
    return render_category("mvtec3d", "gear", raw, out, options or small_options(), splits, workers, overwrite, Silent())


def tree(folder: Path) -> dict[str, bytes]:
    skip = {".lock", "timings.jsonl"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in skip}


@pytest.fixture
def raw(workspace: Path, tmp_path: Path) -> Path:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    return tmp_path / "raw"


def test_rendering_again_does_nothing(workspace: Path, raw: Path, tmp_path: Path) -> None:
    first = render(raw, tmp_path / "out")
    before = tree(tmp_path / "out")
    second = render(raw, tmp_path / "out")
    assert (first.rendered, first.skipped) == (14, 0)
    assert (second.rendered, second.skipped) == (0, 14)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    "workers",
    [pytest.param(Workers(2), marks=pytest.mark.thorough(4)), Workers(1, threads=3)],
    ids=["two workers", "three threads"],
)
def test_workers_and_threads_give_the_same_bytes_as_one_process(
    workspace: Path, raw: Path, tmp_path: Path, workers: Workers
) -> None:
    render(raw, tmp_path / "out", workers=workers)
    assert tree(tmp_path / "out" / "mvtec3d" / "gear") == tree(workspace / "renders" / "mvtec3d" / "gear")


@pytest.mark.egl
@pytest.mark.thorough(4)
def test_egl_gives_the_same_bytes_on_workers_and_threads(raw: Path, tmp_path: Path) -> None:
    options = replace(small_options(), backend="egl")
    try:
        render(raw, tmp_path / "one", options)
    except MissingComponent as error:
        pytest.skip(str(error))
    for name, workers in (("workers", Workers(2)), ("threads", Workers(1, threads=3))):
        render(raw, tmp_path / name, options, workers=workers)
        assert tree(tmp_path / name) == tree(tmp_path / "one"), name


def test_decoded_files_are_within_half_a_step_of_what_was_drawn(workspace: Path) -> None:
    folder = workspace / "renders" / "mvtec3d" / "gear"
    rig = Rig.from_json(files.read_json(folder / "rig.json")["rig"])
    reader, options = reader_for("mvtec3d"), small_options()
    for ref in reader.refs(workspace / "raw" / "mvtec3d", "gear", ReadOptions())[::5]:
        scan = reader.load(ref)
        surface = build_surface(scan, cleaned := clean(scan, options.clean), options.surface)
        before, pose = stand_before(rig, scan, cleaned, options.rig)
        views = render_views(surface, scan.gt, before, rasteriser("cpu"))
        record = read_record(folder / ref.split / ref.defect / ref.id)
        sample = read_sample(folder / ref.split / ref.defect / ref.id, record)
        assert np.array_equal(record["pose"], pose.matrix)
        assert record["depth"]["step_m"] == pytest.approx((rig.far_m - rig.near_m) / 65534)
        assert record["depth"]["step_m"] < 5e-6
        seen = views.source >= 0
        wrong = np.abs(sample.coding.decode(sample.depth).astype(np.float64) - views.depth)[seen]
        assert wrong.max() <= record["depth"]["step_m"] / 2 + 6e-8  # float32 holds 0.6 m to 6e-8
        assert np.array_equal(sample.rgb, views.rgb)
        assert np.array_equal(sample.source, views.source)
        assert np.array_equal(sample.mask > 0, views.mask)
        turned = (decode_normal(sample.normal) * views.normal).sum(axis=-1)[seen]
        assert np.degrees(np.arccos(np.clip(turned, -1, 1))).max() < 0.5
        assert record["points"]["object"] == cleaned.keep.sum()
        assert sum(record["points"]["removed_as"].values()) == cleaned.removed.sum()


def test_a_crash_at_any_step_ends_in_the_same_bytes(raw: Path, tmp_path: Path, sampled: Sampled) -> None:
    class CrashError(BaseException):
        pass

    for path in sorted((raw / "gear" / "test").iterdir()):
        if path.name != "dent":
            shutil.rmtree(path)
    for kind in ("xyz", "rgb"):
        for path in sorted((raw / "gear" / "train" / "good" / kind).iterdir())[1:]:
            path.unlink()
    splits = ("train", "test")
    steps: list[str] = []
    files.step_hook = steps.append
    try:
        render(raw, tmp_path / "whole", splits=splits)
        whole = tree(tmp_path / "whole")
        for number in sampled(range(0, len(steps), 3), 6):
            count = 0

            def hook(step: str, stop: int = number) -> None:
                nonlocal count
                if count == stop:
                    raise CrashError(step)
                count += 1

            files.step_hook = hook
            out = tmp_path / f"crash{number}"
            with pytest.raises(CrashError):
                render(raw, out, splits=splits)
            files.step_hook = lambda step: None
            render(raw, out, splits=splits)
            assert tree(out) == whole, f"crash before step {number}: {steps[number]}"
    finally:
        files.step_hook = lambda step: None
    assert len(steps) > 60


def test_a_record_torn_by_a_power_cut_is_rendered_again(raw: Path, tmp_path: Path) -> None:
    done = render(raw, tmp_path / "out")
    whole = tree(tmp_path / "out")
    records = sorted(done.folder.glob("*/*/*/record.json"))
    records[0].write_bytes(b"")
    records[1].write_bytes(records[1].read_bytes()[:40])
    assert render(raw, tmp_path / "out").rendered == 2
    assert tree(tmp_path / "out") == whole


def test_the_rig_is_fitted_to_training_scans_spread_over_their_keys(raw: Path, tmp_path: Path) -> None:
    some = replace(small_options(), rig=RigOptions(size=64, measured=2))
    done = render(raw, tmp_path / "out", some, splits=("validation",))
    train = sorted(path.stem for path in (raw / "gear" / "train" / "good" / "xyz").iterdir())
    used = [key.rsplit("/", 1)[1] for key in json.loads((done.folder / "rig.json").read_text())["training_scans"]]
    assert used == [train[0], train[2]]


def test_one_bad_scan_costs_one_scan(raw: Path, tmp_path: Path) -> None:
    bad = next((raw / "gear" / "test" / "bump" / "xyz").iterdir())
    bad.write_bytes(b"II*\0nonsense")
    done = render(raw, tmp_path / "out")
    assert (done.rendered, done.failed) == (13, 1)
    listed = [json.loads(line) for line in (done.folder / "failed.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in listed] == [f"gear/test/bump/{bad.stem}"]
    assert str(bad) in listed[0]["reason"]
    assert len(read_manifest(done.folder)["samples"]) == 13


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_killed_overwrite_does_not_mix_configurations(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = render(raw, tmp_path / "out", splits=("train",))
    whole = contents(tmp_path / "out")

    def killed(path: Path) -> None:
        if path.name in ("rig.json", "train"):
            raise KeyboardInterrupt
        remove(path)

    remove = files.remove
    other = replace(small_options(), samples=1)
    monkeypatch.setattr("mvad.render.job.files.remove", killed)
    with pytest.raises(KeyboardInterrupt):
        render(raw, tmp_path / "out", other, splits=("train",), overwrite=True)
    monkeypatch.setattr("mvad.render.job.files.remove", remove)
    left = contents(tmp_path / "out")
    assert len(left) < len(whole)
    assert any(name.endswith("rig.json") for name in left), "the cameras go last"
    with pytest.raises(BadInput, match=r"was made with samples = 3, this run asks for 1.*--overwrite"):
        render(raw, tmp_path / "out", other, splits=("train",))
    cameras = done.folder / "rig.json"
    recorded = files.read_sealed_json(cameras, "cameras", "")
    for change in ({"config": recorded["config"] | {"samples": 1}}, None):
        remove(cameras) if change is None else files.write_sealed_json(cameras, recorded | change)
        left = contents(tmp_path / "out")
        with pytest.raises(BadInput, match="was rendered with samples = 3, this run asks for 1; give --overwrite"):
            render(raw, tmp_path / "out", other, splits=("train",))
        assert contents(tmp_path / "out") == left, "what is refused changes nothing"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda o: replace(o, rig=RigOptions(size=64, tilt_deg=25)), "rig.tilt_deg"),
        (lambda o: replace(o, rig=RigOptions(size=128)), "rig.size"),
        (lambda o: replace(o, light=2), "light"),
    ],
)
def test_another_configuration_over_old_output_is_refused_by_name(raw: Path, tmp_path: Path, change, key: str) -> None:  # type: ignore[no-untyped-def]
    render(raw, tmp_path / "out", splits=("train",))
    before = contents(tmp_path / "out")
    with pytest.raises(BadInput, match=f"{key} = .*--overwrite"):
        render(raw, tmp_path / "out", change(small_options()), splits=("train",))
    assert contents(tmp_path / "out") == before, "what is refused changes nothing"
    render(raw, tmp_path / "out", change(small_options()), splits=("train",), overwrite=True)


@pytest.mark.parametrize(("along_mm", "across_mm"), [(0.05, 0.45), (0.45, 0.05), (0.2, 0.2)])
def test_a_line_scanners_grid_is_meshed_whole(along_mm: float, across_mm: float) -> None:
    """Its rows lie nine times as far from each other as its points in a row, or the other way round."""
    columns, rows = int(40 / along_mm), int(40 / across_mm)
    x, y = np.meshgrid((np.arange(columns) - columns / 2) * along_mm / 1000, (np.arange(rows) - rows / 2) * across_mm / 1000)
    inside = np.hypot(x, y) < 0.018
    z = 0.4 - np.sqrt(np.maximum(0.03**2 - x**2 - y**2, 0))
    xyz = np.where(inside[..., None], np.stack([x, y, z], axis=2), 0).astype(np.float32)
    scan = Scan(xyz, inside, np.zeros((*inside.shape, 3), np.uint8))
    none = np.zeros_like(inside)
    cleaned = Cleaned(xyz, inside, none, none.astype(np.uint8), np.array([0.0, 0.0, -1.0, 0.4]))
    surface = build_surface(scan, cleaned, SurfaceOptions())
    assert surface.spacing_m == pytest.approx(max(along_mm, across_mm) / 1000, rel=0.3)
    assert surface.bridges < 0.01 * len(surface.faces)


def test_the_audit_adds_up(workspace: Path) -> None:
    audit = json.loads((workspace / "renders" / "mvtec3d" / "gear" / "audit.json").read_text())
    for key, sample in audit["samples"].items():
        assert sample["total"] == sample["no_point"] + sample["removed"] + sample["unseen"] + sample["seen_any"], key
    total = audit["summary"]
    assert total["samples_with_defect"] == 7
    assert total["total"] == total["no_point"] + total["removed"] + total["unseen"] + total["seen_any"]
