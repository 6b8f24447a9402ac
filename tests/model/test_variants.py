"""Runs that differ in keys are told apart in tables, comparisons and charts."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training import NOWHERE, train

from mvad.cli.tables import figures_tables
from mvad.errors import BadInput
from mvad.model.evaluation.compare import scored
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.evaluation.results import RESULTS, Results
from mvad.model.evaluation.variants import choices_of, named_apart
from mvad.model.report.page import build_page
from mvad.model.report.tables import _by_method
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
RUNS: dict[str, dict[str, Any]] = {
    "wide": {"seed": 0}, "wide-again": {"seed": 1}, "narrow": {"padim.channels": 5},
    "same-as-narrow": {"padim.channels": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("variants") / "runs"
    for name, changes in RUNS.items():
        train(root / name, workspace / "shards" / GEAR, model="padim", **changes)
        evaluate_run(root / name, workspace / "shards", NOWHERE, Silent())
    return [root / name for name in RUNS]


def test_runs_are_named_by_the_keys_that_differ(runs: list[Path]) -> None:
    results = [Results.read(run / RESULTS) for run in runs]
    assert [result.variant for result in named_apart(results[:1])] == [""]
    assert [result.variant for result in named_apart(results[:2])] == ["", ""], "seeds are one method"
    assert [result.variant for result in named_apart(results[:3])] == ["padim.channels=12"] * 2 + ["padim.channels=5"]
    alike = [result.variant for result in named_apart(results)][2:]
    assert alike == ["padim.channels=5, narrow", "padim.channels=5, same-as-narrow"], (
        "no key tells them apart, but their names do"
    )
    assert "variant" not in named_apart(results)[2].to_json()


def test_many_differing_keys_are_replaced_by_the_name(runs: list[Path]) -> None:
    first = Results.read(runs[0] / RESULTS)
    more = {name: "x" for name in ("padim.channels", "padim.sigma", "padim.regulariser", "score.top_k")}
    other = replace(first, run="mine-seed3", config={**first.config, **more})
    assert [result.variant for result in named_apart([first, other])] == ["wide", "mine"]


def test_keys_of_checkpoints_do_not_tell_runs_apart(runs: list[Path]) -> None:
    first, second = (Results.read(run / RESULTS) for run in runs[:2])
    before = {name: value for name, value in first.config.items() if name != "train.checkpoint_seconds"}
    earlier = replace(first, config=before | {"train.checkpoint_every": 100, "train.keep_checkpoints": 9})
    assert [result.variant for result in named_apart([earlier, second])] == ["", ""]
    more = {name: "x" for name in ("padim.channels", "padim.sigma", "padim.regulariser", "score.top_k")}
    others = [replace(one, run=f"mine-seed{one.seed}", config={**one.config, **more}) for one in (earlier, second)]
    assert [result.variant for result in named_apart([first, *others])] == ["wide", "mine", "mine"]


def test_runs_on_other_shards_of_their_category_are_told_apart(runs: list[Path]) -> None:
    """It was rendered or packed again between two seeds: they are no seeds of one method."""
    first, second = (Results.read(run / RESULTS) for run in runs[:2])
    more = replace(second, training_samples=104, train_shards={"train-00000.h5": "0" * 64})
    sizes = f"{first.training_samples} train, {len(first.samples)} test", f"104 train, {len(first.samples)} test"
    assert tuple(result.variant for result in named_apart([first, more])) == sizes
    assert [result.variant for result in named_apart([first, second])] == ["", ""]
    others = replace(second, test_shards={"test-00000.h5": "0" * 64})
    assert [result.variant for result in named_apart([first, others])] == [first.run, second.run]
    assert len(_by_method(named_apart([first, more]))) == 2
    again = [replace(one, run=f"again-seed{one.seed}", test_shards={"test-00000.h5": "0" * 64}) for one in (first, second)]
    named = named_apart([replace(first, run="x-seed0"), replace(second, run="x-seed1"), *again])
    assert [result.variant for result in named] == ["x", "x", "again", "again"], "seeds on the same shards stay together"
    relabelled = replace(first, samples=[replace(first.samples[0], label=not first.samples[0].label), *first.samples[1:]])
    with pytest.raises(BadInput, match="different samples"):
        scored([first, relabelled])


def test_tables_comparisons_and_charts_tell_them_apart(runs: list[Path]) -> None:
    page = build_page(runs[:3])
    name = f"padim {Results.read(runs[0] / RESULTS).input_name}, padim.channels=5"
    for place in ("padim<br><small>padim.channels=5</small>", f"{name}</td>"):
        assert place in page, place
    assert page.count(f">{name}, seed 0</text>") >= 4, "in the legend of each chart"
    console = Console(file=io.StringIO(), width=200)
    for table in figures_tables([Results.read(run / RESULTS) for run in runs[:3]]):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("padim.channels=12") == 3, "two runs and their mean"
    assert text.count("padim.channels=5") == 1
    assert text.count("mean of") == 1, "no mean over runs of other keys"


def test_keys_that_runs_of_before_do_not_record_have_the_values_of_then(runs: list[Path]) -> None:
    first = Results.read(runs[0] / RESULTS)
    old = replace(first, config={**first.config, "head.width": 48})
    new = replace(first, seed=1, config={**old.config, "head.kind": "light"})
    assert [result.variant for result in named_apart([old, new])] == ["", ""]
    assert choices_of(old) == choices_of(new)
    other = replace(new, config={**new.config, "head.kind": "destseg"})
    assert [result.variant for result in named_apart([old, other])] == ["head.kind=light", "head.kind=destseg"]
