"""New samples: thresholds and their guarantees, raw scans rendered on the fly, export to ONNX."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
import tifffile
import torch
from command import mvad, python, surroundings
from training import CPU, NOWHERE, load, train

from mvad import files
from mvad.datasets.shards.loader import Batch, ShardSet, batch_of
from mvad.datasets.shards.reader import open_shard
from mvad.errors import BadInput, MissingComponent
from mvad.model.detector import AnomalyMaps
from mvad.model.devices import float32_only
from mvad.model.evaluation.decide import NewSample
from mvad.model.evaluation.predict import predict
from mvad.model.evaluation.threshold import Thresholds, conformal, threshold_of
from mvad.model.exchange import onnx as onnx_export
from mvad.model.exchange.onnx import export_onnx
from mvad.model.idif.window import Window
from mvad.model.registry import methods
from mvad.model.runs import RunFolder
from mvad.pipeline.predict import samples_of
from mvad.pipeline.workspace import Workspace
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
METHODS = tuple(methods())
BY_POSITION = {"head.by_position": True, "score.map": "head", "score.calibrate": False}


def test_a_threshold_keeps_the_guaranteed_share_of_false_alarms() -> None:
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(2000):
        found = conformal(rng.standard_normal(39).tolist(), 0.05)
        alarms.append(rng.standard_normal() > found.value)
    assert found.promised == pytest.approx(0.05)
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)
    few = conformal([1.0, 3.0, 2.0], 0.05)
    assert (few.value, few.promised, few.kept) == (3.0, 0.25, False)
    assert conformal([1.0, 3.0, 2.0], 0.5).value == 2.0
    assert conformal([1.0, 3.0, 2.0], 1.0).value == 1.0
    with pytest.raises(BadInput, match="give --threshold"):
        conformal([], 0.05)


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with a trained run of the category gear."""
    root = tmp_path_factory.mktemp("predict")
    for name in ("raw", "renders", "shards"):
        (root / name).symlink_to(workspace / name)
    train(root / "runs" / "idif", workspace / "shards" / GEAR, **{"train.student_steps": 2, "train.head_steps": 2, **BY_POSITION})
    train(root / "runs" / "floor", workspace / "shards" / GEAR, model="mean_feature")
    return root


def widened(rig: dict[str, Any]) -> dict[str, Any]:
    """Return recorded cameras with another focal length."""
    wider = json.loads(json.dumps(rig))
    for matrix in wider["intrinsics"]:
        matrix[0][0] *= 0.8
        matrix[1][1] *= 0.8
    return dict(wider)


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {row["sample"].split("/")[-1]: row for row in csv.DictReader(path.read_text().splitlines())}


@pytest.mark.thorough(3)
def test_scans_rendered_on_the_fly_score_as_packed_ones(place: Path, tmp_path: Path) -> None:
    run, out = str(place / "runs" / "floor"), tmp_path / "raw"
    done = mvad("predict", run, str(place / "raw" / GEAR / "test"), "--workspace", str(place), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "1 validation normal; 5 % cannot be guaranteed with so few" in done.stdout
    assert "ms to score" in done.stdout
    packed = tmp_path / "packed"
    assert mvad("predict", run, str(place / "shards" / GEAR), "--workspace", str(place), "--out", str(packed)).returncode == 0
    by_key = {row["sample"]: row for row in csv.DictReader((packed / "predictions.csv").read_text().splitlines())}
    found = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(found) == len(by_key) == len(ShardSet(place / "shards" / GEAR, "test"))
    for row in found:
        packed = by_key[f"gear/test/{row['sample']}"]
        assert row["path"] == str(place / "raw" / GEAR / "test" / row["sample"].replace("/", "/xyz/")) + ".tiff"
        assert Path(packed["path"]).name == "test-00000.h5"
        assert float(row["score"]) == pytest.approx(float(packed["score"]), rel=1e-4)
        assert row["decision"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "normal")
        found_at = tifffile.imread(out / "maps" / f"{row['sample'].replace('/', '_')}.tiff")
        views = [float(row[f"view_{k}"]) for k in range(5)]
        assert row["view"] == str(np.argmax(views))
        where = np.unravel_index(found_at[int(row["view"])].argmax(), (64, 64))
        assert (row["row"], row["column"]) == tuple(map(str, where))
    maps = tifffile.imread(next((out / "maps").glob("*.tiff")))
    assert maps.shape == (5, 64, 64)
    before = (out / "predictions.csv").read_bytes()
    again = mvad("predict", run, str(place / "raw" / GEAR / "test"), "--workspace", str(place), "--out", str(out))
    assert again.returncode == 0
    assert (out / "predictions.csv").read_bytes() == before, "nothing is scored twice, seconds included"


def test_predictions_say_how_each_scan_lay(place: Path, tmp_path: Path) -> None:
    """Of raw scans and of packed samples alike; scans that are unlike the category or cut off are named."""
    shards = tmp_path / "shards"
    shutil.copytree(place / "shards" / GEAR, shards)
    with h5py.File(shards / "test-00000.h5", "r+") as file:
        file["pose_number"][1], file["pose_fit"][1], file["pose_fit"][2] = -1, 0.5, -1
        file["cut"][3], file["pose_number"][3] = [0, 1, 0, 0, 1], 2
    manifest = files.read_sealed_json(shards / "manifest.json", "x", "y")
    for entry in manifest["shards"]:
        entry["sha256"] = files.sha256_file(shards / entry["file"])
    files.write_sealed_json(shards / "manifest.json", manifest)
    data = ShardSet(shards, "test")
    words = ["predict", str(place / "runs" / "floor"), str(shards), "--workspace", str(place), "--threshold", "1"]
    done = mvad(*words, "--out", str(tmp_path / "packed"))
    assert done.returncode == 0, done.stderr
    assert f"notice: fits no stable pose well: {data.keys[1]}\n" in done.stdout
    assert f"notice: reaches beyond the picture: {data.keys[3]} (view 1, 4)\n" in done.stdout
    found = list(csv.DictReader((tmp_path / "packed" / "predictions.csv").read_text().splitlines()))
    assert [row["pose"] for row in found] == ["0", "-1", "0", "2", *["0"] * 5]
    assert [row["fit"] for row in found[:3]] == [f"{data.pose_fits[0]:.4f}", "0.5000", ""]
    assert [row["cut"] for row in found[2:5]] == ["", "1 4", ""]
    lines = files.read_lines(tmp_path / "packed" / "scored.jsonl")
    assert [(line["pose"], line["fit"], line["cut"]) for line in lines[1:4:2]] == [(-1, 0.5, []), (2, data.pose_fits[3], [1, 4])]
    raw = tmp_path / "new"
    shutil.copytree(place / "raw" / GEAR / "test" / "good", raw)
    done = mvad("predict", str(place / "runs" / "floor"), str(raw), *words[3:], "--out", str(tmp_path / "raw"))
    whole = ShardSet(place / "shards" / GEAR, "test")
    for name, row in rows(tmp_path / "raw" / "predictions.csv").items():
        index = next(k for k, key in enumerate(whole.keys) if key.endswith(f"good/{name}"))
        assert (row["pose"], row["fit"], row["cut"]) == ("0", f"{whole.pose_fits[index]:.4f}", "")
    assert "notice: fits" not in done.stdout


def test_a_scan_unlike_its_category_is_named(place: Path, tmp_path: Path) -> None:
    """A scan of which a half is missing fits no pose, and says so when it is rendered on the fly."""
    folder = tmp_path / "new"
    shutil.copytree(place / "raw" / GEAR / "test" / "good", folder)
    path = sorted((folder / "xyz").glob("*.tiff"))[0]
    xyz = tifffile.imread(path)
    xyz[:, : xyz.shape[1] // 2] = 0
    tifffile.imwrite(path, xyz, photometric="rgb")
    run, out = str(place / "runs" / "floor"), tmp_path / "out"
    words = ["predict", run, str(folder), "--workspace", str(place), "--threshold", "1", "--out", str(out)]
    first = mvad(*words)
    assert first.returncode == 0, first.stderr
    assert re.search(rf"notice: fits no stable pose well: \S*{path.stem}\n", first.stdout)
    assert rows(out / "predictions.csv")[path.stem]["pose"] == "-1"
    assert mvad(*words).stdout.count("fits no stable pose well") == 1, "when it is continued, too"


def test_predictions_of_an_earlier_version_are_continued(place: Path, tmp_path: Path) -> None:
    run, folder, out = place / "runs" / "floor", place / "raw" / GEAR / "test" / "good", tmp_path / "out"
    words = ["predict", str(run), str(folder), "--workspace", str(place), "--threshold", "1", "--out", str(out)]
    assert mvad(*words).returncode == 0
    lines = files.read_lines(out / "scored.jsonl")
    before = [{k: v for k, v in line.items() if k not in ("pose", "fit", "cut", "crc32")} for line in lines]
    (out / "scored.jsonl").unlink()  # an earlier version kept its log under the other name
    files.write_lines(out / "predictions.jsonl", before[:1])
    scored = rows(out / "predictions.csv")
    done = mvad(*words)
    assert done.returncode == 0, done.stderr
    after = rows(out / "predictions.csv")
    old, new = (line["key"].split("/")[-1] for line in before)
    assert (after[old]["pose"], after[old]["fit"]) == ("", ""), "it was not scored again"
    assert after[old]["load_seconds"] == scored[old]["load_seconds"]
    assert (after[new]["pose"], after[new]["fit"]) == ("0", scored[new]["fit"])


def test_photographs_lay_nowhere(place: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", place / "shards" / "realiad" / "plate", model="mean_feature")
    shards = str(place / "shards" / "realiad" / "plate")
    words = ["predict", str(tmp_path / "run"), shards, "--workspace", str(place), "--threshold", "1"]
    done = mvad(*words, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert {(row["pose"], row["fit"], row["cut"]) for row in found} == {("", "", "")}


def test_a_scan_that_cannot_be_read_is_skipped_and_reported(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(place / "raw" / GEAR / "test" / "good", folder)
    broken = sorted((folder / "xyz").glob("*.tiff"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    words = [
        "predict",
        str(place / "runs" / "floor"),
        str(folder),
        "--workspace",
        str(place),
        "--out",
        str(tmp_path / "out"),
        "--threshold",
        "-1",
    ]
    done = mvad(*words)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "could not be scored" in done.stderr
    failed = files.read_lines(tmp_path / "out" / "failed.jsonl")
    assert [line["key"].split("/")[-1] for line in failed] == [broken.stem]
    assert all(row["decision"] == "anomalous" for row in rows(tmp_path / "out" / "predictions.csv").values())
    shutil.copy(place / "raw" / GEAR / "test" / "good" / "xyz" / broken.name, broken)
    assert mvad(*words).returncode == 0
    assert not (tmp_path / "out" / "failed.jsonl").exists()
    before = rows(tmp_path / "out" / "predictions.csv")
    assert len(before) == len(list((folder / "xyz").iterdir()))
    one, other = sorted(before)[:2]
    assert before[one]["score"] != before[other]["score"]
    for kind, suffix in (("xyz", "tiff"), ("rgb", "png")):
        shutil.copy(folder / kind / f"{other}.{suffix}", folder / kind / f"{one}.{suffix}")
    assert mvad(*words).returncode == 0
    after = rows(tmp_path / "out" / "predictions.csv")
    assert after[one]["score"] == before[other]["score"], "a file that changed is scored again"


def test_samples_that_a_run_cannot_score_are_rejected(place: Path, tmp_path: Path) -> None:
    run = str(place / "runs" / "floor")
    nothing = mvad("predict", run, str(tmp_path), "--workspace", str(place))
    assert nothing.returncode == 3
    assert "holds no mvtec3d scan" in nothing.stderr
    assert mvad("predict", run, str(tmp_path / "nowhere"), "--workspace", str(place)).returncode == 3
    foreign = place / "shards" / "realiad" / "plate"
    words = ["--workspace", str(place), "--out", str(tmp_path / "out"), "--threshold", "1"]
    plates = mvad("predict", str(place / "runs" / "idif"), str(foreign), *words)
    assert plates.returncode == 3
    assert "is of realiad/plate, idif was trained on mvtec3d/gear; score it all the same with --force" in plates.stderr
    plates = mvad("predict", str(place / "runs" / "idif"), str(foreign), *words, "--force")
    assert plates.returncode == 6, "they lack a modality of the run"
    assert "which the run was trained on" in files.read_lines(tmp_path / "out" / "failed.jsonl")[0]["reason"]
    detector = load(place / "runs" / "floor")
    with pytest.raises(BadInput, match="is not what floor was trained on"):
        threshold_of(RunFolder(place / "runs" / "floor"), detector, foreign, 0.05, Silent())
    alone = Path(shutil.copytree(place / "shards" / GEAR, tmp_path / "alone"))
    manifest = files.read_sealed_json(alone / "manifest.json", "x", "y")
    kept = [entry for entry in manifest["shards"] if entry["split"] != "validation"]
    files.write_sealed_json(alone / "manifest.json", manifest | {"shards": kept})
    with pytest.raises(
        BadInput, match=r"no validation split to take a threshold from; give --threshold, .* or train with --holdout 0\.2"
    ):
        threshold_of(RunFolder(place / "runs" / "floor"), detector, alone, 0.05, Silent())
    with pytest.raises(BadInput, match="not found, so there are no normal samples"):
        threshold_of(RunFolder(place / "runs" / "floor"), detector, tmp_path / "nowhere", 0.05, Silent())


def test_cameras_and_threshold_are_those_of_the_workspace_of_the_run(place: Path, tmp_path: Path) -> None:
    """Whatever workspace lies in the current folder or is named by a variable; and what was used is told."""
    foreign = tmp_path / "mvad-data"
    words = ["predict", str(place / "runs" / "floor"), str(place / "raw" / GEAR / "test" / "good")]
    for folder in ("renders", "shards"):
        shutil.copytree(place / folder / GEAR, foreign / folder / GEAR)
    shutil.copy(foreign / "shards" / GEAR / "train-00000.h5", foreign / "shards" / GEAR / "validation-00000.h5")
    expected = mvad(*words, "--workspace", str(place), "--out", str(tmp_path / "a"))
    for name, variables in (("b", {}), ("c", {"MVAD_WORKSPACE": str(foreign)})):
        command = (*words, "--out", str(tmp_path / name))
        done = python("mvad.cli.main", *command, cwd=tmp_path, environment=surroundings(**variables))
        assert done.returncode == 0, done.stderr
        assert f"of {place}\n" in done.stdout
        pick = ("sample", "score", "threshold", "decision")
        tables = [rows(tmp_path / each / "predictions.csv").values() for each in ("a", name)]
        assert [[row[k] for k in pick] for row in tables[0]] == [[row[k] for k in pick] for row in tables[1]]
    assert expected.returncode == 0


def test_packed_samples_of_other_cameras_are_refused(place: Path, tmp_path: Path) -> None:
    shards = tmp_path / "test-00000.h5"
    shutil.copy(place / "shards" / GEAR / "test-00000.h5", shards)
    with h5py.File(shards, "r+") as file:
        file["rig/intrinsics"][0, 0, 0] *= 1.5
    words = ["predict", str(place / "runs" / "floor"), str(shards), "--threshold", "1"]
    done = mvad(*words)
    assert done.returncode == 3
    assert "has other views or cameras than floor was trained on" in done.stderr
    assert mvad(*words, "--force").returncode == 0
    moved = tmp_path / "alone" / "floor"
    shutil.copytree(place / "runs" / "floor", moved)
    done = mvad("predict", str(moved), str(shards), "--threshold", "1", cwd=tmp_path)
    assert done.returncode == 3
    assert "has not the shards that floor was trained on" in done.stderr


def test_raw_scans_are_not_rendered_by_the_cameras_of_other_shards(place: Path, workspace: Path, tmp_path: Path) -> None:
    """The workspace was rendered and packed again, in another frame, say: its cameras are not those that the run has learned."""
    for name in ("raw", "renders", "runs"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(workspace / "shards" / GEAR, tmp_path / "shards" / GEAR)
    path = tmp_path / "shards" / GEAR / "manifest.json"
    manifest = files.read_sealed_json(path, "a manifest", "")
    next(entry for entry in manifest["shards"] if entry["split"] == "train")["sha256"] = "0" * 64
    files.write_sealed_json(path, manifest)
    done = mvad("predict", str(tmp_path / "runs" / "floor"), str(tmp_path / "raw" / GEAR / "test"), "--threshold", "1", "--workspace", str(tmp_path))  # fmt: skip
    assert done.returncode == 3
    assert "is not what floor was trained on" in done.stderr
    again = tmp_path / "again"
    for name in ("raw", "shards", "runs"):
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).symlink_to(place / name)
    shutil.copytree(place / "renders" / GEAR, again / "renders" / GEAR)
    rig = again / "renders" / GEAR / "rig.json"
    words = [
        "predict",
        str(again / "runs" / "floor"),
        str(again / "raw" / GEAR / "test" / "good"),
        "--threshold",
        "1",
        "--workspace",
    ]
    out = ["--out", str(tmp_path / "predicted")]
    assert mvad(*words, str(again), *out).returncode == 0
    scores = [row["score"] for row in rows(tmp_path / "predicted" / "predictions.csv").values()]
    cameras = files.read_sealed_json(rig, "cameras", "")
    for name, changed in {
        "rig.tilt_deg = 20.0": cameras | {"config": cameras["config"] | {"rig.tilt_deg": 20.0}},
        "other cameras": cameras | {"rig": widened(cameras["rig"])},
    }.items():
        files.write_sealed_json(rig, changed)
        done = mvad(*words, str(again), *out)
        assert done.returncode == 3
        assert f"was rendered again, with {name}, since floor was trained" in done.stderr
    assert mvad(*words, str(again), *out, "--force").returncode == 0
    forced = [row["score"] for row in rows(tmp_path / "predicted" / "predictions.csv").values()]
    assert forced != scores, "other cameras, other scores: none is taken over from before"
    other = tmp_path / "other"
    shutil.copytree(place / "runs" / "floor", other)
    config = files.read_sealed_json(other / "config.json", "a run", "")
    files.write_sealed_json(other / "config.json", config | {"shards": {"train-00000.h5": "0" * 64}})
    with pytest.raises(BadInput, match="is not what other was trained on"):
        threshold_of(RunFolder(other), load(place / "runs" / "floor"), place / "shards" / GEAR, 0.05, Silent())


def test_a_workspace_from_a_machine_with_a_gpu_renders_on_one_without(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("raw", "shards", "runs"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "renders" / GEAR, tmp_path / "renders" / GEAR)
    rig = tmp_path / "renders" / GEAR / "rig.json"
    cameras = files.read_sealed_json(rig, "cameras", "")
    files.write_sealed_json(rig, cameras | {"config": cameras["config"] | {"backend": "egl"}})

    def missing(backend: str, **_: Any) -> None:
        if backend == "egl":
            raise MissingComponent("libEGL is missing")

    monkeypatch.setattr("mvad.pipeline.predict.rasteriser", missing)
    run = RunFolder(place / "runs" / "floor")
    elsewhere, here = (samples_of(place / "raw" / GEAR / "test" / "good", run, Workspace(root)) for root in (tmp_path, place))
    assert np.array_equal(elsewhere[0].load().sample.rgb, here[0].load().sample.rgb)
    assert [one.fingerprint() for one in elsewhere] == [one.fingerprint() for one in here]


@pytest.mark.thorough(6)
@pytest.mark.parametrize("model", METHODS)
def test_every_method_refuses_a_sample_that_it_was_not_trained_for(
    model: str, workspace: Path, trained: Callable[[str, str], Path]
) -> None:
    run = trained(model, "mvtec3d")
    foreign = samples_of(workspace / "shards" / "realiad" / "plate", RunFolder(run), Workspace(workspace), force=True)
    with pytest.raises(BadInput, match="which the run was trained on"):
        foreign[0].batch(load(run).spec)


def test_seconds_are_taken_when_the_device_is_done(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a call returns when its work was launched."""
    waited: list[torch.device] = []
    monkeypatch.setattr("mvad.model.in_batches.synchronise", waited.append)
    run = RunFolder(place / "runs" / "floor")
    samples = samples_of(place / "shards" / GEAR, run, Workspace(place))[:2]
    detector = load(run.path)
    thresholds = Thresholds(run, detector, place / "shards" / GEAR, 0.05, Silent(), 0.0)
    found = predict(detector, run.model_sha256, thresholds, samples, 2, tmp_path, Silent())
    assert waited == [CPU, CPU]
    assert len(found.rows) == 2


def test_samples_that_are_scored_together_get_what_they_get_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; one of them cannot be read, and what is there already is not scored again."""
    run = RunFolder(place / "runs" / "floor")
    detector, samples = load(run.path), list(samples_of(place / "shards" / GEAR, run, Workspace(place)))
    thresholds = Thresholds(run, detector, place / "shards" / GEAR, 0.05, Silent(), 0.0)

    def unreadable() -> NoReturn:
        raise BadInput("damaged")

    samples[1] = replace(samples[1], load=unreadable)
    calls: list[int] = []
    score = detector.score
    monkeypatch.setattr(detector, "score", lambda batch: calls.append(len(batch.keys)) or score(batch))

    def predicted(name: str, chosen: list[NewSample]) -> list[Any]:
        found = predict(detector, run.model_sha256, thresholds, chosen, len(chosen), tmp_path / name, Silent())
        assert found.failed == 1
        assert files.read_lines(tmp_path / name / "failed.jsonl")[0] == {"key": samples[1].key, "reason": "damaged"}
        return [replace(row, load_seconds=0, score_seconds=0, write_seconds=0) for row in found.rows]

    alone = predicted("alone", samples)
    assert set(calls) == {1}
    monkeypatch.setattr("mvad.model.in_batches.samples_per_call", lambda device: 3)
    predicted("together", samples[:2])
    calls.clear()
    together = predicted("together", samples)
    assert together == alone
    assert calls[0] == 1, "of the first three one is there and one cannot be read"
    assert 3 in calls
    for path in (tmp_path / "alone" / "maps").iterdir():
        assert path.read_bytes() == (tmp_path / "together" / "maps" / path.name).read_bytes()


def test_a_sample_that_cannot_be_scored_is_listed_and_the_others_of_its_call_are_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(place / "runs" / "floor")
    detector, samples = load(run.path), list(samples_of(place / "shards" / GEAR, run, Workspace(place)))[:3]
    thresholds = Thresholds(run, detector, place / "shards" / GEAR, 0.05, Silent(), 0.0)
    score = detector.score

    def picky(batch: Batch) -> AnomalyMaps:
        if samples[1].key in batch.keys:
            raise BadInput("cannot be scored")
        return score(batch)

    monkeypatch.setattr(detector, "score", picky)
    monkeypatch.setattr("mvad.model.in_batches.samples_per_call", lambda device: 3)
    found = predict(detector, run.model_sha256, thresholds, samples, 3, tmp_path / "out", Silent())
    assert [row.key for row in found.rows] == [samples[0].key, samples[2].key]
    assert files.read_lines(tmp_path / "out" / "failed.jsonl") == [{"key": samples[1].key, "reason": "cannot be scored"}]


def test_a_sample_as_a_batch_of_one_equals_the_sample_of_the_split(workspace: Path) -> None:
    data = ShardSet(workspace / "shards" / GEAR, "test", ["rgb", "depth", "normal", "source"])
    shard = open_shard(workspace / "shards" / GEAR / "test-00000.h5")
    one, other = batch_of(shard.sample(1), shard.coding), data.batch([1])
    for name, tensor in other._tensors().items():
        assert torch.equal(getattr(one, name), tensor), name
    assert (one.keys, one.coding) == (other.keys, other.coding)


@pytest.mark.thorough(6)
def test_an_exported_file_gives_the_detectors_outputs(place: Path, workspace: Path, tmp_path: Path) -> None:
    import onnxruntime

    about = export_onnx(place / "runs" / "idif", workspace / "shards", tmp_path / "m.onnx", NOWHERE, Silent())
    assert about.outputs[:3] == ["maps", "view_scores", "sample_scores"]
    assert about.checked["largest_difference"] < 1e-4
    detector = load(place / "runs" / "idif")
    data = ShardSet(workspace / "shards" / GEAR, "train", detector.spec.modalities)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    answers = []
    for index in range(2):
        batch = data.batch([index])
        given = {"seen": batch.seen.numpy(), "rgb": batch.rgb.numpy()}
        if "depth" in detector.spec.modalities:
            given["depth"] = batch.depth_code.to(torch.int32).numpy()
        maps, views, sample, *fits = session.run(None, given)
        with float32_only():
            expected = detector.score(batch)
        assert all(bool(fit) for fit in fits), "training objects fit the window, if there is one"
        assert np.abs(maps - expected.maps.numpy()).max() < 1e-3 * np.abs(expected.maps.numpy()).max()
        assert np.allclose(views, expected.view_scores.numpy(), rtol=1e-3, atol=1e-3)
        answers.append(sample)
    assert answers[0] != answers[1], "the file does not depend on the traced sample"
    assert files.read_sealed_json(tmp_path / "m.onnx.json", "x", "y")["inputs"]["rgb"]["shape"] == [1, 5, 64, 64, 3]


@pytest.mark.thorough(8)
@pytest.mark.parametrize("model", METHODS)
def test_every_method_exports_to_a_file_with_the_same_outputs(
    model: str, workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]
) -> None:
    about = export_onnx(trained(model, "mvtec3d"), workspace / "shards", tmp_path / "m.onnx", NOWHERE, Silent())
    assert about.checked["largest_difference"] < 1e-4
    assert files.read_sealed_json(tmp_path / "m.onnx.json", "x", "y")["model"] == model


@pytest.mark.thorough(6)
def test_an_export_is_in_float32_for_any_training_precision(workspace: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", workspace / "shards" / GEAR, model="destseg", **{"train.precision": "bfloat16"})
    about = export_onnx(tmp_path / "run", workspace / "shards", tmp_path / "m.onnx", NOWHERE, Silent())
    assert about.checked["largest_difference"] < 1e-4
    assert b"BFLOAT16" not in (tmp_path / "m.onnx").read_bytes()


class ThroughAWindow(torch.nn.Module):
    """Cut the window out, and paste it back."""

    window = Window(8, 16)

    def forward(self, planes: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places, fits = self.window.places(seen)
        return self.window.paste(self.window.cut(planes, places)[:, 0], places, -1.0), fits


def test_the_window_follows_the_object_in_an_exported_file(tmp_path: Path) -> None:
    import warnings

    import onnxruntime

    planes, seen = torch.randn(3, 2, 16, 16), torch.zeros(3, 64, 64, dtype=torch.bool)
    for k, (y, x) in enumerate([(0, 0), (20, 30), (40, 8)]):
        seen[k, y : y + 20, x : x + 12] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ThroughAWindow(),
            (planes, seen),
            str(tmp_path / "w.onnx"),
            dynamo=False,
            opset_version=20,
            input_names=["planes", "seen"],
        )
    session = onnxruntime.InferenceSession(str(tmp_path / "w.onnx"), providers=["CPUExecutionProvider"])
    moved = seen.roll((16, 24), (1, 2))
    moved[2] = True
    for each in (seen, moved):
        found, fits = session.run(None, {"planes": planes.numpy(), "seen": each.numpy()})
        expected, fitting = ThroughAWindow()(planes, each)
        assert np.array_equal(found, expected.numpy())
        assert fits.tolist() == fitting.tolist()
    assert not fits[2]
    shown = expected[0] > -1
    assert torch.equal(expected[0][shown], planes[0, 0][shown])


@pytest.mark.thorough(4)
def test_a_file_with_other_outputs_is_not_written(
    place: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(BadInput, match="gives other outputs as ONNX"):
        export_onnx(place / "runs" / "idif", workspace / "shards", tmp_path / "m.onnx", NOWHERE, Silent())
    assert not (tmp_path / "m.onnx").exists()
    assert mvad("export", "--format", "onnx").returncode == 3
    assert mvad("export", "--format", "torchscript").returncode == 2


def test_raw_scans_are_read_with_the_light_of_the_renders(
    workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]
) -> None:
    shutil.copytree(workspace / "renders" / "eyecandies", tmp_path / "renders" / "eyecandies")
    rig = next((tmp_path / "renders").glob("*/*/rig.json"))
    recorded = files.read_sealed_json(rig, "cameras", "")
    recorded["config"]["light"] = 2
    files.write_sealed_json(rig, recorded)
    run, raw = RunFolder(trained("mean_feature", "eyecandies")), workspace / "raw" / "eyecandies" / "dome"
    default, second, fourth = (
        [sample.fingerprint() for sample in samples_of(raw, run, Workspace(tmp_path), light=light, force=True)]
        for light in (None, 2, 4)
    )
    assert default == second
    assert default != fourth
