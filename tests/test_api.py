"""Public API: names, examples, registration of methods, datasets and metrics by a caller."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import MVAD, ROOT, python, surroundings

import mvad
from mvad import api, files, settings
from mvad.datasets import registry as datasets
from mvad.datasets.mvtec3d import MVTec3D
from mvad.datasets.shards import batch, loader
from mvad.model import devices, explain, holdout, images, registry, scoring
from mvad.model.idif import effects
from mvad.model.metrics import table
from mvad.model.metrics.table import Metric
from mvad.model.report.page import build_page
from mvad.pipeline import trained_run

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def beside_a_workspace(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder that holds the generated workspace as ``mvad-data``."""
    for name in ("raw", "renders", "shards"):
        (tmp_path / "mvad-data").mkdir(exist_ok=True)
        (tmp_path / "mvad-data" / name).symlink_to(workspace / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_public_names_are_those_in_all() -> None:
    assert mvad.__all__ == api.__all__ == sorted(api.__all__)
    for name in mvad.__all__:
        assert getattr(mvad, name) is getattr(api, name)
        assert (getattr(mvad, name).__doc__ or "").strip(), f"{name} has no docstring"
    public = {
        name for name, value in vars(api).items() if not name.startswith("_") and getattr(value, "__module__", "") == api.__name__
    }
    assert public <= set(mvad.__all__)
    assert set(mvad.__all__) <= set(dir(mvad))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mvad.trian  # noqa: B018


def test_every_function_has_an_example() -> None:
    functions = [value for name in mvad.__all__ if inspect.isfunction(value := getattr(mvad, name))]
    functions += [mvad.Run.evaluate, mvad.Run.predict]
    assert len(functions) > 10
    for function in functions:
        assert ">>> " in (function.__doc__ or ""), f"{function.__name__} has no example"


@pytest.mark.parametrize(
    "module",
    [
        api,
        trained_run,
        batch,
        loader,
        holdout,
        effects,
        datasets,
        registry,
        table,
        devices,
        explain,
        scoring,
        images,
        settings,
        files,
    ],
    ids=lambda module: module.__name__,
)
def test_the_examples_of_docstrings_run(module: Any, beside_a_workspace: Path) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in finder.find(module) if test.examples]
    for test in tests:
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0


@pytest.mark.thorough(4)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, beside_a_workspace: Path) -> None:
    arguments = {"render_one_scan": ["mvad-data/raw/mvtec3d/gear/train/good/xyz/000.tiff", "views.png"]}
    given = arguments.get(path.stem, ["mvad-data/shards/mvtec3d/gear"])
    code = f"import runpy, sys; sys.argv = {[str(path), *given]!r}; runpy.run_path({str(path)!r}, run_name='__main__')"
    done = python(None, cwd=beside_a_workspace, code=code)
    assert done.returncode == 0, done.stderr
    assert "S-AUROC" in done.stdout or "5 views" in done.stdout


def test_importing_mvad_does_not_import_large_libraries() -> None:
    code = "import mvad, sys; print(mvad.__version__, sorted({'torch', 'numpy', 'h5py', 'rich', 'typer', 'scipy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_explaining_a_key_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['mvad', 'explain', 'fusion.kind']\nfrom mvad.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\nprint(sorted({'torch', 'numpy', 'h5py', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_a_torch_dataloader_returns_batches(workspace: Path) -> None:
    data = mvad.ShardSet(str(workspace / "shards" / "mvtec3d" / "gear"), "test")
    batches = list(torch.utils.data.DataLoader(data, batch_size=4, collate_fn=mvad.collate))
    assert [len(batch.keys) for batch in batches] == [4, 4, 1]
    assert len(repr(batches[0])) < 100
    assert len(repr(data)) < 100


class SmallFloor(mvad.Detector):
    """A method of a caller: distance of each image from the mean image."""

    def __init__(self, config: mvad.ModelConfig, spec: mvad.InputSpec, teacher: Any, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.mean = torch.zeros(0)

    def fit(self, train: mvad.ShardSet, context: Any) -> None:
        self.mean = torch.stack([train.batch([k]).rgb[0].float().mean(dim=-1) for k in range(len(train))]).mean(dim=0)

    def score(self, batch: mvad.Batch) -> mvad.AnomalyMaps:
        maps = (batch.rgb.float().mean(dim=-1) - self.mean).abs()
        scores = maps.amax(dim=(2, 3)).masked_fill(~batch.present, -torch.inf)
        return mvad.AnomalyMaps(maps, scores, scores.amax(dim=1))

    def state(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean}

    def load_state(self, state: Any) -> None:
        self.mean = state["mean"]

    def planned_seconds(self, samples: int) -> float:
        return 1.0


class OtherName(MVTec3D):
    """A dataset of a caller in the layout of a built-in one."""

    name = "my_parts"
    licence = "mine"
    modalities = ("rgb",)
    known_categories = ()


@pytest.fixture
def registered() -> Iterator[None]:
    """Register a method, a dataset of scans and a metric of a caller."""
    mvad.register_method(
        mvad.Method("small_floor", "Small floor", "distance to the mean picture", "none", "none", mvad.ModelConfig, SmallFloor)
    )
    mvad.register_dataset(OtherName())
    mvad.register_metric(Metric("hit_rate", "hit rate", "sample", lambda s: float(s.labels.mean()), terminal=True, page=True))
    yield
    registry.unregister_method("small_floor")
    datasets.unregister_dataset("my_parts")
    table.unregister_metric("hit_rate")


@pytest.mark.usefixtures("registered")
def test_registered_method_dataset_and_metric_work_from_rendering_to_report(workspace: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from mvad.cli.tables import figures_tables

    options = mvad.RenderOptions(backend="cpu")
    options = dataclasses.replace(options, rig=dataclasses.replace(options.rig, size=64, views=2))
    done = mvad.render_category("my_parts", "gear", workspace / "raw" / "mvtec3d", tmp_path / "renders", options)
    assert (done.failed, done.rendered) == (0, 14)
    packed = mvad.pack("my_parts", "gear", tmp_path / "renders", tmp_path / "shards")
    run = mvad.train(packed, "small_floor", tmp_path / "runs" / "mine", teacher="tiny")
    assert run.record.config["input.modalities"] == ["rgb"], "the dataset's default input"
    results = mvad.load_run(tmp_path / "runs" / "mine").evaluate(packed)
    assert results.figures["hit_rate"] == pytest.approx(7 / 9)
    assert (results.dataset, results.model) == ("my_parts", "small_floor")
    page = build_page([run.path])
    assert "<th>hit rate</th>" in page
    assert "77.8" in page
    console = Console(width=200, record=True)
    console.print(*figures_tables([results]))
    assert "hit rate" in console.export_text()
    with pytest.raises(mvad.BadInput, match="another name"):
        mvad.register_method(mvad.Method("padim", "x", "x", "x", "x", mvad.ModelConfig, SmallFloor))


@pytest.mark.thorough(8)
@pytest.mark.usefixtures("registered")
def test_other_processes_render_a_registered_dataset(workspace: Path, tmp_path: Path) -> None:
    from mvad.render.engine import Workers

    options = mvad.RenderOptions(backend="cpu")
    options = dataclasses.replace(options, rig=dataclasses.replace(options.rig, size=64, views=2))
    raw = workspace / "raw" / "mvtec3d"
    done = mvad.render_category("my_parts", "gear", raw, tmp_path, options, ["train"], Workers(2))
    assert (done.failed, done.rendered) == (0, 4)


def test_a_detector_scores_raw_scans_as_packed_ones(workspace: Path, tmp_path: Path) -> None:
    run = mvad.train(workspace / "shards" / "mvtec3d" / "gear", "padim", tmp_path / "padim", teacher="tiny", input__size=64)
    assert run.detector.device == torch.device("cpu")
    run = mvad.load_run(run.path, "cpu", workspace)
    reader = MVTec3D()
    ref = next(r for r in reader.refs(workspace / "raw" / "mvtec3d", "gear", datasets.ReadOptions()) if r.split == "test")
    packed = run.predict(workspace / "shards" / "mvtec3d" / "gear")
    alone = run.predict(reader.load(ref))
    assert float(alone.sample_scores[0]) == pytest.approx(float(packed[ref.key].sample_scores[0]), rel=1e-4)
    folder = run.predict(workspace / "raw" / "mvtec3d" / "gear" / "test")
    assert len(folder) == len(packed) == 9
    with pytest.raises(mvad.BadInput, match="not found"):
        run.predict("nowhere")


def test_an_invalid_device_is_an_error_of_one_line(workspace: Path) -> None:
    shards = workspace / "shards" / "mvtec3d" / "gear"
    with pytest.raises(mvad.BadInput, match="--device tpu: choose auto, cpu, cuda"):
        mvad.train(shards, "padim", "nowhere", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(mvad.MissingComponent, match="torch finds 0 CUDA devices"):
            mvad.train(shards, "padim", "nowhere", device="cuda:7")


def test_a_scan_is_rendered_with_the_default_backend(workspace: Path) -> None:
    scan = workspace / "raw" / "mvtec3d" / "gear" / "train" / "good" / "xyz" / "000.tiff"
    options = mvad.RenderOptions(rig=mvad.RigOptions(size=64, views=2))
    assert options.backend == "auto"
    assert mvad.render_scan(scan, options=options).rgb.shape == (2, 64, 64, 3)
    with pytest.raises(mvad.BadInput, match="--backend vulkan: choose from auto, cpu, egl"):
        mvad.render_scan(scan, options=mvad.RenderOptions(backend="vulkan"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "padim"}, "argument method"),
        ({"seed": "abc"}, "seed = 'abc' must be int"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"input__size": 0}, "input.size = 0 must be at least 32"),
        ({"input__modalities": ["rgb", "rgb"]}, "names one twice"),
        ({"score__pool_px": 4}, "must be at least 1 and at most 255 and odd"),
        ({"padim__sigma": 0}, "padim.sigma = 0.0 must be at least 0.001"),
        ({"train__keep_checkpoints": 0}, "must be at least 1"),
    ],
    ids=str,
)
def test_a_wrong_key_is_refused_before_anything_is_written(
    keys: dict[str, Any], message: str, workspace: Path, tmp_path: Path
) -> None:
    with pytest.raises(mvad.BadInput, match=message):
        mvad.train(workspace / "shards" / "mvtec3d" / "gear", "padim", tmp_path / "run", **{"teacher": "tiny", **keys})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("uniad", {"uniad__heads": 7}, "uniad.width = 256 must be a multiple of uniad.heads = 7"),
        ("idif", {"fusion__heads": 7}, "voxel.width = 128 must be a multiple of fusion.heads = 7"),
        ("idif", {"voxel__patch": 3}, "voxel.size = 8 must be a multiple of voxel.patch = 3"),
    ],
    ids=str,
)
def test_widths_that_heads_do_not_divide_are_refused(
    method: str, keys: dict[str, Any], message: str, workspace: Path, tmp_path: Path
) -> None:
    shards = workspace / "shards" / "mvtec3d" / "gear"
    with pytest.raises(mvad.BadInput, match=message):
        mvad.train(
            shards, method, tmp_path / "run", "small", teacher="tiny", input__size=64, pseudo__textures="procedural", **keys
        )
    assert not (tmp_path / "run").exists()


def test_only_the_training_split_is_trained_on(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(mvad.BadInput, match="trained on the split train"):
        mvad.train(mvad.ShardSet(workspace / "shards" / "mvtec3d" / "gear", "test"), "padim", tmp_path / "run")


def test_an_evaluation_is_of_test_data_of_the_runs_category(
    workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]
) -> None:
    shards = workspace / "shards"
    run = mvad.load_run(shutil.copytree(trained("mean_feature", "mvtec3d"), tmp_path / "run"), "cpu", workspace)
    with pytest.raises(mvad.BadInput, match="is eyecandies/dome, the run was trained on mvtec3d/gear"):
        run.evaluate(shards / "eyecandies" / "dome")
    with pytest.raises(mvad.BadInput, match="train was trained on"):
        run.evaluate(mvad.ShardSet(shards / "mvtec3d" / "gear", "train"))
    for views in ([7], [-1]):
        with pytest.raises(mvad.BadInput, match="has views 0 to 4"):
            run.evaluate(shards / "mvtec3d" / "gear", views)
    results = run.evaluate(shards / "mvtec3d" / "gear", [2, 0])
    assert (results.views, results.training_samples) == ((0, 2), 4)
    assert (run.path / "results-views-0-2.json").exists()
    with pytest.raises(KeyError, match="no metric 'sauroc'"):
        results.figures["sauroc"]
    batch = mvad.ShardSet(shards / "mvtec3d" / "gear", "test").batch([0])
    fewer = dataclasses.replace(
        batch, **{name: getattr(batch, name)[:, :3] for name in ("rgb", "mask", "seen", "present", "view_label")}
    )
    with pytest.raises(mvad.BadInput, match="has 3 views, the run was trained on 5"):
        run.predict(fewer)


def test_maps_that_are_not_finite_are_an_error_with_run_and_sample(
    workspace: Path, tmp_path: Path, trained: Callable[[str, str], Path]
) -> None:
    run = mvad.load_run(shutil.copytree(trained("mean_feature", "mvtec3d"), tmp_path / "run"), "cpu", workspace)
    run.detector.mean[...] = torch.nan  # type: ignore[attr-defined]
    with pytest.raises(mvad.BadInput, match=r"run: the maps or the score of .* are not finite"):
        run.evaluate(workspace / "shards" / "mvtec3d" / "gear")


def test_a_detector_without_score_cannot_be_made() -> None:
    class Half(mvad.Detector):
        def fit(self, train: mvad.ShardSet, context: mvad.FitContext) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_metric_cannot_take_the_name_of_another_field() -> None:
    with pytest.raises(mvad.BadInput, match="choose another name"):
        mvad.register_metric(Metric("regions", "x", "sample", lambda s: 0.5))


def test_a_methods_own_inputs_precede_those_of_the_dataset(workspace: Path, tmp_path: Path) -> None:
    mvad.register_method(
        mvad.Method(
            "small_floor",
            "x",
            "x",
            "none",
            "none",
            mvad.ModelConfig,
            SmallFloor,
            keys={"input.modalities": ("rgb",), "input.size": 64},
        )
    )
    try:
        shards = workspace / "shards" / "mvtec3d" / "gear"
        run = mvad.train(shards, "small_floor", tmp_path / "own", teacher="tiny")
        assert run.record.config["input.modalities"] == ["rgb"]
    finally:
        registry.unregister_method("small_floor")
    run = mvad.train(shards, "mean_feature", tmp_path / "paper", teacher="tiny", input__size=64, input__modalities=[])
    assert run.record.config["input.modalities"] == ["rgb", "normal"], "empty: what scores best"
    paper = mvad.train(shards, "mean_feature", tmp_path / "of the paper", "paper", teacher="tiny", input__size=64)
    assert paper.record.config["input.modalities"] == ["rgb", "depth"], "but the paper's in its preset"


def test_the_workspace_is_that_of_the_run_or_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "place" / "shards" / "mvtec3d" / "gear"
    packed.mkdir(parents=True)
    of = trained_run.workspace_of
    assert of(tmp_path / "place" / "runs" / "x").root == tmp_path / "place"
    assert of(tmp_path / "else" / "runs" / "x", packed).root == tmp_path / "place"
    assert of(Path("runs/x")).root == Path("mvad-data")
    assert of(Path("x"), Path("gear")).root == Path("mvad-data"), "given by a short relative path"
    monkeypatch.setenv("MVAD_WORKSPACE", str(tmp_path))
    assert of(Path("runs/x")).root == tmp_path


@pytest.mark.thorough(6)
def test_commands_know_a_method_whose_module_they_are_told_of(beside_a_workspace: Path) -> None:
    def mvad_command(*words: str, plugins: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "examples")))
        return subprocess.run(  # a process of its own: a warm one has the path that it was started with
            [*MVAD, *words], cwd=beside_a_workspace, capture_output=True, text=True,
            env=surroundings(MVAD_PLUGINS=plugins) | {"PYTHONPATH": paths},
        )  # fmt: skip

    words = [
        "train",
        "--category",
        "gear",
        "--modalities",
        "rgb",
        "--set",
        "input.size=64",
        "--teacher",
        "tiny",
        "--preset",
        "demo",
    ]
    done = mvad_command(*words, "--model", "mean_view", plugins="own_method")
    assert done.returncode == 0, done.stderr
    assert mvad_command(*words, "--model", "mean_feature", plugins="").returncode == 0
    done = mvad_command("evaluate", plugins="")
    assert done.returncode == 0, done.stderr
    assert "mean_view-seed0: left out, its method is not known here" in done.stdout + done.stderr
    assert not (beside_a_workspace / "mvad-data/runs/mvtec3d-gear-mean_view-seed0/results.json").exists()
    assert mvad_command("evaluate", plugins="own_method").returncode == 0
    assert (beside_a_workspace / "mvad-data/runs/mvtec3d-gear-mean_view-seed0/results.json").exists()
    done = mvad_command("evaluate", plugins="no_such_module")
    assert done.returncode == 3
    assert done.stderr.startswith("mvad: MVAD_PLUGINS: no_such_module cannot be imported")


def test_an_unknown_split_is_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(mvad.BadInput, match="split nonsense: choose from train, validation, test"):
        mvad.render_category("mvtec3d", "gear", workspace / "raw" / "mvtec3d", tmp_path, splits=["nonsense"])
    assert not list(tmp_path.iterdir())


def test_imported_maps_are_no_detector(tmp_path: Path) -> None:
    record = {"dataset": "a", "category": "b", "config": {}, "origins": {}, "shards": {}, "machine": {}}
    files.write_sealed_json(tmp_path / "config.json", record | {"teacher": {"name": "", "sha256": ""}})
    with pytest.raises(mvad.BadInput, match="holds imported maps, not a trained detector"):
        mvad.load_run(tmp_path, "cpu")
