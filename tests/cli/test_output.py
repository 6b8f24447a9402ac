"""What commands print and where: results, progress, JSON, narrow and wide consoles, readers that leave, completion, counts."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command import MVAD, python, surroundings
from rich.console import Console
from rich.table import Table
from training import NOWHERE, train

from mvad import files
from mvad.cli.console import print_table
from mvad.errors import CannotWrite
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.pipeline.explain import all_explanations, explanations_of
from mvad.pipeline.status import status_of
from mvad.pipeline.workspace import Workspace
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"
PIPED = {name: value for name, value in surroundings().items() if name != "COLUMNS"}


@pytest.fixture(scope="module")
def place(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with an evaluated run, a finished one, and one that was interrupted."""
    root = tmp_path_factory.mktemp("output")
    for name in ("raw", "renders", "shards"):
        (root / name).symlink_to(workspace / name)
    for name in ("floor", "other"):
        train(root / "runs" / name, workspace / "shards" / GEAR, model="mean_feature")
    evaluate_run(root / "runs" / "floor", workspace / "shards", NOWHERE, Silent())
    shutil.copytree(root / "runs" / "other", root / "runs" / "stopped")
    (root / "runs" / "stopped" / "model.json").unlink()
    return root


def said(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return python("mvad.cli.main", *arguments, cwd=cwd, environment=PIPED | variables)


def test_results_go_to_standard_output_and_progress_to_standard_error(place: Path, tmp_path: Path) -> None:
    done = said("evaluate", str(place / "runs" / "floor"), "--workspace", str(place), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "S-AUROC" in done.stdout
    assert "evaluate floor: 9/9" in done.stderr
    assert "evaluate floor" not in done.stdout
    assert (tmp_path / "floor" / "results.json").exists()


def test_json_is_alone_on_standard_output(place: Path, tmp_path: Path) -> None:
    runs, shards = place / "runs", place / "shards" / GEAR
    evaluated = said("evaluate", str(runs / "floor"), "--workspace", str(place), "--out", str(tmp_path), "--json", "-")
    assert json.loads(evaluated.stdout)[0]["figures"]["samples"] == 9
    inspected = said("inspect", str(shards / "test-00000.h5"), "--sheet", str(tmp_path / "s.png"), "--json", "-")
    about = json.loads(inspected.stdout)
    assert (about["samples"], about["defects"]["good"], about["fields"]["rgb"]["shape"]) == (9, 2, [9, 5, 64, 64, 3])
    assert about["attributes"]["config"]["rig.size"] == 64, "nothing is truncated"
    verified = json.loads(said("verify", str(shards), "--json", "-").stdout)
    assert verified["faults"] == []
    assert verified["checked"] > 3
    words = ("--workspace", str(place), "--out", str(tmp_path / "p"), "--threshold", "0", "--json", "-")
    predicted = json.loads(said("predict", str(runs / "floor"), str(shards / "test-00000.h5"), *words).stdout)
    table = list(csv.DictReader((tmp_path / "p" / "predictions.csv").read_text().splitlines()))
    assert [row["sample"] for row in predicted["samples"]] == [row["sample"] for row in table]
    assert [str(row["view"]) for row in predicted["samples"]] == [row["view"] for row in table]
    target = tmp_path / "status.json"
    assert said("status", "--workspace", str(place), "--json", str(target)).returncode == 0
    assert {run["run"] for run in json.loads(target.read_text())["runs"]} == {"floor", "other", "stopped"}


def test_a_damaged_file_is_in_the_json_of_verify(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "shards" / GEAR, tmp_path / "gear")
    (tmp_path / "gear" / "test-00000.h5").write_bytes(b"")
    done = said("verify", str(tmp_path / "gear"), "--json", "-")
    assert done.returncode == 3
    assert [Path(fault["path"]).name for fault in json.loads(done.stdout)["faults"]] == ["test-00000.h5"]
    assert "1 of " in done.stderr
    assert "files is not what was written" in done.stderr


def test_status_tells_renders_shards_and_the_state_of_each_run(place: Path, tmp_path: Path) -> None:
    found = status_of(Workspace(place))
    gear = next(row for row in found["renders"] if row["category"] == "gear")
    assert gear["samples"] == {"test": 9, "train": 4, "validation": 1} or sum(gear["samples"].values()) >= 13
    assert {row["category"]: row["state"] for row in found["shards"]} == {"gear": "packed", "dome": "packed", "plate": "packed"}
    states = {row["run"]: row["state"] for row in found["runs"]}
    assert states == {"floor": "evaluated", "other": "trained", "stopped": "unfinished"}
    assert {row["run"] for row in found["runs"] if row["s_auroc"] is not None} == {"floor"}
    assert "holds nothing yet" in said("status", cwd=tmp_path).stdout
    stopped = tmp_path / "renders" / GEAR
    stopped.mkdir(parents=True)
    manifest = files.read_sealed_json(place / "renders" / GEAR / "manifest.json", "", "")
    pending = [{"key": sample["key"], "reason": "x", "why": "pending"} for sample in manifest["samples"][3:]]
    files.write_sealed_json(stopped / "manifest.json", manifest | {"samples": manifest["samples"][:3], "missing": pending})
    (row,) = status_of(Workspace(tmp_path))["renders"]
    assert (row["state"], row["missing"], sum(row["samples"].values())) == ("unfinished", len(pending), 3)


def test_piped_tables_have_their_full_width(place: Path, tmp_path: Path) -> None:
    done = said("explain")
    assert max(map(len, done.stdout.splitlines())) > 120
    row = next(line for line in done.stdout.splitlines() if " dropout.p " in line)
    assert "0.2 per view" in row, "a row is one line"


def printed(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_table_is_stacked_where_its_words_do_not_fit_side_by_side() -> None:
    table = Table("category", "standardised", "S-AUROC", title="Figures")
    for name in ("cable_gland", "LicoriceSandwich"):
        table.add_row(name, "validation samples", "99.8\n98-100")
    wide = printed(table, 60)
    assert "category" in wide
    assert any("cable_gland" in line and "99.8" in line for line in wide.splitlines()), "columns where there is room"
    narrow = printed(table, 38)
    assert narrow.count("category ") == 2
    assert "  category      cable_gland\n  standardised  validation samples\n  S-AUROC       99.8 98-100\n" in narrow
    assert "Figures" in narrow


@pytest.mark.parametrize("arguments", [["explain"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*MVAD, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, env=PIPED)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shell_can_complete_commands(tmp_path: Path) -> None:
    words = {"_MVAD_COMPLETE": "complete_bash", "COMP_WORDS": "mvad sta", "COMP_CWORD": "1"}
    assert said(**words).stdout.split() == ["status"]
    script = said("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    assert "_MVAD_COMPLETE=complete_bash" in script


def test_every_key_of_every_command_is_explained() -> None:
    listed = all_explanations()
    assert {"rig.tilt_deg", "clean.plane_margin_mm", "light"} <= {key.name for key in listed["render"]}
    assert {"filter", "shard_mb"} <= {key.name for key in listed["pack"]}
    for verb, keys in listed.items():
        assert all(verb in [found for found, _ in explanations_of(key.name)] for key in keys)
    assert explanations_of("light")[0][1].default == 4


def full_disk(tmp_path: Path, workspace: Path) -> tuple[int, str]:
    """Render with a disk that is full from the second scan on; return the exit code and what was said."""
    code = (
        "import errno, os, signal, sys\n"
        "from mvad import files\n"
        "from mvad.cli import main\n"
        "count = 0\n"
        "def full(step):\n"
        "    global count\n"
        "    count += step.startswith('write rgb_0')\n"
        "    if count > 1 and step.startswith('write'):\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "files.step_hook = full\n"
        "sys.argv[1:] = ['render', 'mvtec3d', '--raw', sys.argv[1], '--size', '64', '--jobs', '1', '--backend', 'cpu']\n"
        "main.run()\n"
    )
    done = python(None, str(workspace / "raw" / "mvtec3d"), code=code, cwd=tmp_path, environment=PIPED)
    return done.returncode, done.stderr


def test_a_full_disk_is_one_line_instead_of_one_for_each_scan(workspace: Path, tmp_path: Path) -> None:
    returncode, stderr = full_disk(tmp_path, workspace)
    assert returncode == CannotWrite.exit_code, stderr
    assert stderr.count("No space left on device") == 1
    assert "failed:" not in stderr
    assert "free some space" in stderr
