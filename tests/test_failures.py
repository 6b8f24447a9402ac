"""A category that fails does not end training or a table over several; an error that would come for each of them does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import mvad

from mvad import files
from mvad.errors import BadInput, CannotWrite, MissingComponent, PartlyDone, UnknownName
from mvad.failures import Failures


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def test_parts_that_fail_are_told_and_counted() -> None:
    told: list[str] = []
    failures = Failures(4, told.append)
    errors = [None, BadInput("a.h5: is damaged"), OutOfMemoryError("CUDA out of memory.\nmore"), BadInput("a.h5: is damaged")]
    for number, error in enumerate(errors):
        with failures.of(str(number)):
            if error is not None:
                raise error
    assert (failures.done, failures.count) == (1, 3)
    assert told[0] == "failed: 1: a.h5: is damaged"
    assert told[1].startswith("failed: 2: CUDA out of memory.; choose a smaller train.batch")
    with pytest.raises(PartlyDone, match="3 of 4; see the messages above"):
        failures.raise_if_any("3 of 4")
    Failures(2, told.append).raise_if_any("nothing failed")


@pytest.mark.parametrize(
    "error",
    [UnknownName("--preset x"), CannotWrite("full", is_general=True), RuntimeError("a fault"), KeyboardInterrupt(), ValueError()],
)
def test_what_every_part_would_meet_ends_the_loop(error: BaseException) -> None:
    failures = Failures(3, lambda line: None)
    with pytest.raises(type(error)), failures.of("a"):
        raise error


def test_the_same_words_for_two_groups_end_the_loop() -> None:
    """Two methods of one category fail with the same words, which name the category: others may be in order."""
    failures = Failures(3, lambda line: None)
    for method in ("idif", "padim"):
        with failures.of(f"dome, {method}", "dome"):
            raise BadInput("dome/train-00000.h5: is damaged")
    with failures.of("gear, idif", "gear"):
        pass
    assert (failures.done, failures.count) == (1, 2)
    failures = Failures(3, lambda line: None)
    with failures.of("a"):
        raise MissingComponent("no weights")
    with pytest.raises(MissingComponent), failures.of("b"):
        raise MissingComponent("no weights")
    failures = Failures(3, lambda line: None, groups=1)
    with failures.of("gear, idif", "gear"):
        raise MissingComponent("no weights")
    with pytest.raises(MissingComponent), failures.of("gear, padim", "gear"):
        raise MissingComponent("no weights")
    for alone in (BadInput("x"), OutOfMemoryError("x")):
        with pytest.raises(type(alone)), Failures(1, lambda line: None).of("a"):
            raise alone


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with two packed categories, of which the first has a damaged training shard."""
    root = tmp_path_factory.mktemp("failures")
    for dataset, category in (("eyecandies", "dome"), ("mvtec3d", "gear")):
        shutil.copytree(workspace / "shards" / dataset / category, root / "shards" / dataset / category)
    damaged = root / "shards" / "eyecandies" / "dome" / "train-00000.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    return root


def test_training_goes_on_after_a_category_that_fails(place: Path) -> None:
    words = [
        "train",
        "--workspace",
        str(place),
        "--model",
        "mean_feature",
        "--preset",
        "demo",
        "--set",
        "teacher=random",
        "--set",
        "input.size=64",
    ]
    done = mvad(*words)
    assert done.returncode == 6, done.stderr
    assert "failed: eyecandies/dome, mean_feature, seed 0: " in done.stdout + done.stderr
    assert "1 of 2 runs is not trained" in done.stderr
    assert (place / "runs" / "mvtec3d-gear-mean_feature-seed0" / "model.json").exists()
    again = mvad(*words)
    assert again.returncode == 6
    assert "was trained already" in again.stdout
    alone = mvad(*words, "--category", "dome")
    assert alone.returncode == 3
    unknown = mvad(*words, "--set", "input.sise=64")
    assert unknown.returncode in (2, 3)
    assert "failed:" not in unknown.stdout + unknown.stderr


def test_a_table_has_the_rows_of_the_runs_that_did_not_fail(place: Path) -> None:
    done = mvad(
        "reproduce", "table2", "--workspace", str(place), "--dataset", "mvtec3d", "--dataset", "eyecandies", "--model", "patchcore", "--preset", "demo",
        "--set", "teacher=random", "--set", "input.size=64",
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "1 of 2 runs is not in the table" in done.stderr
    table = files.read_json(place / "reports" / "reproduce-table2.json")
    assert "failed, and not in the table: eyecandies/dome patchcore seed 0" in str(table)
    assert "eyecandies: run on nothing; not packed or not requested: CandyCane" in str(table)
    before = (place / "reports" / "reproduce-table2.json").read_bytes()
    done = mvad(
        "reproduce", "table2", "--workspace", str(place), "--dataset", "eyecandies", "--model", "patchcore", "--model", "idif", "--seed", "1",
        "--preset", "demo", "--set", "teacher=random", "--set", "input.size=64",
    )  # fmt: skip
    assert done.returncode in (3, 6), done.stderr
    assert (place / "reports" / "reproduce-table2.json").read_bytes() == before, "a table without rows does not replace one"
    assert "gear" in str(table)
