"""What train.precision and train.deterministic set in torch, while a method trains and scores, and afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import load, train

from mvad.datasets.shards.loader import Batch, ShardSet
from mvad.errors import BadInput
from mvad.model.baselines.mean_feature.detector import MeanFeature
from mvad.model.config import ONE_ORDER
from mvad.model.devices import arithmetic, check_deterministic
from mvad.model.features import ViewFeatures
from mvad.model.images import ViewImages

TF32_CONV, TF32_MATMUL, SEARCHES, DETERMINISTIC, ALGORITHMS = range(5)


def settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul.allow_tf32
    return cudnn.allow_tf32, matmul, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, ...]]:
    """The settings in force each time that images are made: in each step, and in each call of ``score``."""
    found: list[tuple[bool, ...]] = []
    original = ViewFeatures.images

    def images(self: ViewFeatures, batch: Batch) -> ViewImages:
        found.append(settings())
        return original(self, batch)

    monkeypatch.setattr(ViewFeatures, "images", images)
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, (True, False, True, False, False)),
        ({"train.precision": "float32"}, (False, False, True, False, False)),
        ({"train.deterministic": True}, (True, False, False, True, True)),
    ],
)
def test_a_training_computes_as_its_keys_say_and_leaves_torch_as_it_was(
    keys: dict[str, Any], expected: tuple[bool, ...], seen: list[tuple[bool, ...]], workspace: Path, tmp_path: Path
) -> None:
    gear, before = workspace / "shards" / "mvtec3d" / "gear", settings()
    train(tmp_path / "run", gear, model="mean_feature", **keys)
    whole = bool(ShardSet(gear, "train").present.all())
    assert set(seen) == {(*expected[:SEARCHES], expected[SEARCHES] and whole, *expected[DETERMINISTIC:])}
    assert settings() == before
    seen.clear()
    load(tmp_path / "run").score(ShardSet(gear, "test").batch([0]))
    assert seen == [(*expected[:SEARCHES], False, *expected[DETERMINISTIC:])], "scoring, too; shapes of which come once or twice"
    assert settings() == before


def test_torchs_settings_are_restored_after_an_error() -> None:
    before = settings()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with contextlib.suppress(ZeroDivisionError), arithmetic("float32", deterministic=True, searches=True):
            inside = settings()
            raise ZeroDivisionError
        assert inside == (False, False, False, True, True)
        assert settings()[TF32_MATMUL]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert settings() == before


def test_cublas_is_told_before_a_gpu_is_used_or_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = ONE_ORDER
    gpu = torch.device("cuda")
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(BadInput, match=f"train.deterministic.*{name}={value}"):
        check_deterministic(gpu)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    check_deterministic(gpu)
    assert os.environ[name] == value
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    check_deterministic(gpu)


def test_the_command_line_tells_cublas_before_torch_is_imported() -> None:
    program = (
        "import sys, os, atexit\n"
        f"atexit.register(lambda: print(os.environ.get({ONE_ORDER[0]!r}), 'torch' in sys.modules))\n"
        "from mvad.cli.main import run\nsys.argv = ['mvad', '--version']\nrun()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != ONE_ORDER[0]}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True).stdout
    assert said.splitlines()[-1] == f"{ONE_ORDER[1]} False"


def test_a_class_that_inherits_score_computes_as_configured_once() -> None:
    class Derived(MeanFeature):
        pass

    assert Derived.score is MeanFeature.score
    assert MeanFeature.score.__doc__ == "See ``Detector.score``."
