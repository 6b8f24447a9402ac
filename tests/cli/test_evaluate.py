"""``mvad evaluate`` of all runs of a workspace: which are taken, what one that fails does to the others, options without effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import mvad
from training import train

from mvad import files
from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.errors import BadInput
from mvad.model.evaluation.results import Results
from mvad.model.runs import CONFIG
from mvad.progress import Silent

GEAR, PLATE = Path("mvtec3d") / "gear", Path("realiad") / "plate"


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with runs of two categories."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "shards").symlink_to(workspace / "shards")
    for name, category in (("a-gear", GEAR), ("b-gear", GEAR), ("plate", PLATE)):
        train(root / "runs" / name, workspace / "shards" / category, model="mean_feature")
    return root


def evaluated(done: str) -> list[str]:
    return [row["run"] for row in json.loads(done)]


def test_runs_are_chosen_by_category_and_dataset(place: Path) -> None:
    words = ["evaluate", "--workspace", str(place), "--json", "-"]
    done = mvad(*words, "--category", "gear")
    assert done.returncode == 0, done.stderr
    assert evaluated(done.stdout) == ["a-gear", "b-gear"]
    assert evaluated(mvad(*words, "--dataset", "realiad").stdout) == ["plate"]
    none = mvad(*words, "--dataset", "realiad", "--category", "gear")
    assert none.returncode == 3
    assert "no finished run on realiad/gear; run mvad train first" in none.stderr


def test_runs_that_were_evaluated_are_not_evaluated_again(place: Path) -> None:
    """Unless a picture is missing, the model, the shards or the version are others, or --again or the run's name asks for it."""
    words = ["evaluate", "--workspace", str(place), "--category", "gear", "--missing-views", "--json", "-"]
    said = "was evaluated already"
    first, second = mvad(*words), mvad(*words)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert second.stderr.count(said) == 2
    assert second.stdout == first.stdout
    run = place / "runs" / "a-gear"
    subsets = (run / "missing-views.json").stat().st_mtime_ns
    results = Results.read(run / "results.json")
    (run / results.samples[0].picture).write_bytes(b"another")
    config = files.read_sealed_json(place / "runs" / "b-gear" / "results.json", "x", "y")
    config["machine"]["mvad"] = "0.0.1"
    files.write_sealed_json(place / "runs" / "b-gear" / "results.json", config)
    third = mvad(*words[:-3], "--json", "-")
    assert said not in third.stderr
    assert files.sha256_file(run / results.samples[0].picture) == results.samples[0].picture_sha256
    assert (run / "missing-views.json").stat().st_mtime_ns == subsets
    (run / "threshold.json").unlink()
    (place / "runs" / "b-gear" / "missing-views.json").write_text("{}")
    fourth = mvad(*words)
    assert fourth.returncode == 0, fourth.stderr
    assert fourth.stderr.count(said) == 1, "an evaluation that was killed before its threshold goes on"
    assert (run / "threshold.json").exists()
    (run / "threshold.json").write_text("{}")
    assert mvad(*words[:-3]).returncode == 0, "a damaged threshold is made again"
    assert files.read_sealed_json(run / "threshold.json", "x", "y")["scores"]
    figures = [[row["figures"] for row in json.loads(done.stdout)] for done in (first, fourth)]
    assert figures[0] == figures[1]
    assert said not in mvad(*words[:-3], "--again").stderr + mvad("evaluate", str(run), "--workspace", str(place)).stderr


def test_a_run_that_cannot_be_evaluated_does_not_stop_the_others(place: Path, tmp_path: Path) -> None:
    for name in ("a-gear", "plate"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for path in (place / "runs" / name).iterdir():
            if path.is_file():
                (tmp_path / "runs" / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "shards").symlink_to(place / "shards")
    config = tmp_path / "runs" / "a-gear" / CONFIG
    files.write_sealed_json(config, files.read_sealed_json(config, "", "") | {"shards": {"train-00000.h5": "0" * 64}})
    done = mvad("evaluate", "--workspace", str(tmp_path), "--json", str(tmp_path / "rows.json"))
    assert done.returncode == 6
    assert "failed: a-gear: " in done.stdout + done.stderr
    assert "is not what a-gear was trained on" in done.stdout + done.stderr
    assert "1 of 2 runs is not evaluated" in done.stderr
    assert evaluated((tmp_path / "rows.json").read_text()) == ["plate"]
    alone = mvad("evaluate", str(tmp_path / "runs" / "a-gear"), "--workspace", str(tmp_path))
    assert alone.returncode == 3


@pytest.mark.thorough(4)
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--fuse", "mean"], "--fuse: has no effect on views; add --project-to-scan"),
        (["--raw", "raw"], "--raw: has no effect on views"),
        (["--model", "M3DM"], "--model: has no effect on runs"),
        (["RUN", "--category", "gear"], "--category: has no effect on runs that are named"),
        (["RUN", "--again"], "--again: has no effect on runs that are named"),
        (["--maps", "maps", "--missing-views"], "--missing-views: has no effect on the maps of another tool"),
        (["--maps", "maps", "RUN"], "RUN: has no effect on the maps of another tool"),
    ],
)
def test_an_option_without_effect_is_refused(words: list[str], named: str, place: Path) -> None:
    done = mvad(
        "evaluate", *(str(place / "runs" / "a-gear") if word == "RUN" else word for word in words), "--workspace", str(place)
    )
    assert done.returncode == 3
    assert named in done.stderr


@pytest.mark.thorough(4)
def test_named_seed_and_method_have_precedence_over_a_file(place: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('seed = 5\nmodel = "mean_feature"\nteacher = "tiny"\n[input]\nsize = 64\n')
    words = [
        "train",
        "--preset",
        "small",
        "--category",
        "gear",
        "--config",
        str(tmp_path / "c.toml"),
        "--workspace",
        str(tmp_path),
    ]
    (tmp_path / "shards").symlink_to(place / "shards")
    done = mvad(*words, "--seed", "3", "--seed", "4")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [f"mvtec3d-gear-mean_feature-seed{k}" for k in (3, 4)]
    done = mvad(*words, "--model", "padim", "--set", "padim.channels=8", "--set", "head.width=32", "--set", "score.top_k=9")
    assert done.returncode == 0
    assert (
        done.stderr.count("--set head.width, --set score.top_k: not used by padim, whose results do not depend on that") == 1
    ), "not dropped without a word"
    config = files.read_sealed_json(tmp_path / "runs" / "mvtec3d-gear-padim-seed5" / CONFIG, "", "")["config"]
    assert (config["model"], config["seed"]) == ("padim", 5)


def test_an_unknown_rule_of_fusion_is_one_error_of_usage(place: Path) -> None:
    done = mvad("evaluate", "--project-to-scan", "--fuse", "maxx", "--workspace", str(place))
    assert done.returncode == 2
    assert "--fuse maxx" in done.stderr
    assert "failed:" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["RUN", "--format", "onnx", "--layout", "anomalib"], 3, "--layout: has no effect on --format onnx"),
        (["RUN", "--format", "onnx", "--category", "gear"], 3, "--category: has no effect on --format onnx"),
        (["RUN"], 3, "a run has no effect on pictures; add --format onnx"),
        (["--format", "onyx"], 2, "--format onyx: did you mean onnx"),
    ],
)
def test_what_an_export_does_not_use_is_refused(words: list[str], code: int, named: str, place: Path) -> None:
    run = place / "runs" / "a-gear"
    done = mvad("export", *(str(run) if word == "RUN" else word for word in words), "--workspace", str(place))
    assert done.returncode == code
    assert named in done.stderr
    assert not (run / "model.onnx").exists()


@pytest.mark.thorough(4)
@pytest.mark.parametrize(
    "words",
    [
        ["--set", "samples=4"], ["--set", "rig.views=0"], ["--set", "rig.size=-5"], ["--set", "rig.margin=0"],
        ["--rig", "rig.toml", "--set", "rig.size=512"],
    ],
)  # fmt: skip
def test_options_of_rendering_are_checked_before_anything_is_written(words: list[str], workspace: Path, tmp_path: Path) -> None:
    done = mvad("render", "mvtec3d", "--raw", str(workspace / "raw" / "mvtec3d"), *words, cwd=tmp_path)
    assert done.returncode in (2, 3)
    assert not list(tmp_path.iterdir())


def test_a_refused_synth_leaves_no_mark(tmp_path: Path) -> None:
    assert mvad("synth", "mvtec3d", "--train", "0", "--raw", str(tmp_path / "raw")).returncode == 2
    with pytest.raises(BadInput):
        generate("mvtec3d", tmp_path / "raw", ["gear"], SynthOptions(train=0), Silent())
    assert not (tmp_path / "raw").exists()
