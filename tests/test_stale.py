"""What was made by other means than a run's: results of an earlier model, photographs framed otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvad.errors import BadInput
from mvad.pipeline import evaluation, predict


@pytest.mark.parametrize("change", ["nothing", "model", "shards", "samples", "intervals"])
def test_results_are_taken_only_from_the_runs_own_model_on_the_whole_split(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervals = {} if change == "intervals" else {"s_auroc": [0.1, 0.9]}
    results = SimpleNamespace(
        test_shards={"a": "1"}, figures=SimpleNamespace(intervals=intervals), model_sha256="m", samples=[None] * 3, views=()
    )
    folder: Any = SimpleNamespace(path=tmp_path, model_sha256="other" if change == "model" else "m")
    entry = {
        "split": "test",
        "file": "a",
        "sha256": "2" if change == "shards" else "1",
        "samples": 4 if change == "samples" else 3,
    }
    for name in ("results.json", "manifest.json"):
        (tmp_path / name).touch()
    monkeypatch.setattr(evaluation, "read_manifest", lambda packed: {"shards": [entry, entry | {"split": "train", "file": "b"}]})
    monkeypatch.setattr(evaluation.Results, "read", lambda path: results)
    found = evaluation.evaluated_before(folder, tmp_path)
    assert found is (results if change == "nothing" else None)


@pytest.mark.parametrize("window", [[0, 0, 30, 30], [5, 5, 25, 25]])
def test_packed_photographs_that_were_framed_otherwise_are_refused(window: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def shard(side: list[int]) -> Any:
        config = json.dumps({"pictures": {"framing": {"views": {"a": {"window": side}}}}})
        attributes = {"dataset": "folder", "category": "parts", "config": config}
        return SimpleNamespace(path=Path("x.h5"), views=["a"], layout=SimpleNamespace(attributes=attributes, fields={}))

    monkeypatch.setattr(predict, "has_training_data", lambda run, packed: True)
    monkeypatch.setattr(predict, "inside", lambda folder, name: Path(name))
    monkeypatch.setattr(predict, "open_shard", lambda path: shard([0, 0, 30, 30]))
    run = SimpleNamespace(record=SimpleNamespace(dataset="folder", category="parts", shards={"train-00000.h5": "1"}), name="run")
    place = SimpleNamespace(shards=Path("shards"), root=Path("."))
    if window == [0, 0, 30, 30]:
        predict._check_packed(shard(window), run, place)  # type: ignore[arg-type]
    else:
        with pytest.raises(BadInput, match=r"x.h5: its photographs were cropped or levelled otherwise .* --force"):
            predict._check_packed(shard(window), run, place)  # type: ignore[arg-type]
