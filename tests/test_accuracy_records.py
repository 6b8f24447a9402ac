"""What the accuracy benchmark keeps of its runs: enough for its tables, and rows of before that it cannot make again."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvad.model.evaluation.missing_views import SubsetFigures
from mvad.model.evaluation.results import Figures, Results
from mvad.model.evaluation.sample_result import SampleResult

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import accuracy_records

    return accuracy_records


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import accuracy

    return accuracy


def results(method: str, seed: int, scores: list[float]) -> Results:
    samples = [
        SampleResult(
            key=f"test/{i}", defect="good" if i < 2 else "cut", label=i >= 2, score=score, view_labels=[i >= 2, None],
            view_scores=[score, None], picture="a.jpg", picture_sha256="0" * 64, map="a.png", map_sha256="1" * 64, map_range=[0, 1],
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip
    figures = Figures({"s_auroc": 0.75, "image_auroc": 0.5, "p_auroc": None}, {}, {"cut": 0.75}, {}, samples=len(scores))
    config = {"input.modalities": ["rgb"], "input.size": 256, "score.sample": "top2", "pseudo.textures": "/data/somewhere/dtd"}
    return Results(
        run="r", dataset="mvtec3d", category="gear", model=method, seed=seed, config=config, teacher="t", teacher_sha256="2",
        backbone="b", figures=figures, curves={"roc": [0, 1]}, samples=samples, test_shards={"a": "3"}, train_shards={}, training_samples=4,
    )  # fmt: skip


def test_a_record_has_what_tables_are_made_of(records, tmp_path: Path) -> None:
    subsets = [SubsetFigures((0, 1), 0.9, 0.8, 1.0, {"s_auroc_full": (0.7, 0.9)})]
    records.Evaluated(results("idif", 1, [0.1, 0.4, 0.3, 0.9]), subsets, {"as trained": 1.5}).keep(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert '"curves": {}' in text, "curves stay in the run's folder"
    assert "a.jpg" not in text
    assert "somewhere" not in text, "nothing of the machine's folders"
    again = records.Evaluated.of_record(tmp_path / "r.json")
    assert [s.score for s in again.results.samples] == [0.1, 0.4, 0.3, 0.9]
    assert [list(s.view_scores) for s in again.results.samples][3] == [0.9, None]
    assert again.results.figures["s_auroc"] == 0.75
    assert again.results.test_shards == {"a": "3"}
    assert again.missing == subsets
    assert again.effects == {"as trained": 1.5}


def test_rows_of_runs_that_are_not_recorded_stay_and_others_than_planned_are_left_out(
    accuracy, records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "RECORDS", tmp_path)
    for seed, scores in enumerate([[0.1, 0.4, 0.3, 0.9], [0.1, 0.2, 0.3, 0.9]]):
        for method in ("idif", "destseg"):
            run = next(r for r in accuracy.runs([seed], real=False) if r.method == method)
            records.Evaluated(results(method, seed, scores if method == "idif" else scores[::-1]), None, None).keep(run.record)
    earlier = {
        "machine": {"torch": "1"},
        "rows": [
            {"category": "gear", "method": "idif", "seeds": [0]}, {"category": "gear", "method": "destseg", "seeds": [0, 1, 2]},
            {"category": "gear", "method": "ivc", "seeds": [0]},
        ],
        "differences": [{"category": "gear", "idif_less": "destseg", "seeds": [1, 1]}],
    }  # fmt: skip
    plan = {r.name: accuracy.hash_of(results("idif", 0, []).config) for r in accuracy.runs([0, 1], real=True)}
    found = accuracy.report([0, 1], plan, earlier)
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["idif"]["seeds"] == [0, 1], "more runs than the row of before"
    assert "earlier" not in rows["idif"]
    assert rows["destseg"] == {**earlier["rows"][1], "machine": {"torch": "1"}, "earlier": True}, (
        "fewer runs than the row of before"
    )
    assert rows["ivc"]["earlier"]
    (difference,) = found["differences"]
    assert difference["seeds"] == [2, 2]
    assert difference["points"] > 0
    assert accuracy.report([0, 1], plan, found) == found, "making the table again changes nothing"
    changed = plan | {"gear-rgb-idif-seed1": "another"}
    assert [row["seeds"] for row in accuracy.report([0, 1], changed, {})["rows"] if row["method"] == "idif"] == [[0]]
    assert "gear-rgb-idif-seed1.json: left out" in capsys.readouterr().err
