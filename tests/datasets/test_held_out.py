"""Training samples of Real-IAD that are held out, so that runs get a threshold, and what that does to the paper's protocol."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from command import mvad

import mvad as api
from mvad import files
from mvad.datasets import realiad
from mvad.datasets.shards.contents import count
from mvad.datasets.shards.pack import PackOptions, pack_realiad
from mvad.datasets.shards.reader import held_out_share
from mvad.datasets.verify import Fault
from mvad.datasets.verify_inputs import verify_inputs
from mvad.errors import BadInput
from mvad.model.backbones.weights import WeightsSource
from mvad.model.paper.tables import TABLES
from mvad.pipeline import reproduce
from mvad.pipeline.repair import repair
from mvad.pipeline.workspace import Workspace
from mvad.progress import Silent

OPTIONS = PackOptions(size=64)
SHARES = {0.5: 2, 0.25: 1}


@pytest.mark.parametrize("share", SHARES)
def test_real_iad_holds_out_training_samples_where_it_is_asked(share: float, workspace: Path, tmp_path: Path) -> None:
    raw = workspace / "raw" / "realiad"
    first = realiad.refs(raw, "plate")
    before = Counter(ref.split for ref in first)
    made = pack_realiad(raw, "plate", tmp_path, OPTIONS, Silent(), 2, validation=share)
    manifest = files.read_json(made)
    counts = {entry["split"]: entry["samples"] for entry in manifest["shards"]}
    assert counts == {"train": before["train"] - SHARES[share], "validation": SHARES[share], "test": before["test"]}
    assert manifest["config"]["validation"] == share == held_out_share(manifest["config"])
    row = count(raw, raw, "realiad", "plate", None, share)
    assert {each.split: each.samples for each in row} == counts
    assert [each.split for each in row] == ["train", "validation", "test"]
    with pytest.raises(BadInput, match=rf"packed with validation = {share}, this run asks for none\. Give --overwrite"):
        pack_realiad(raw, "plate", tmp_path, OPTIONS, Silent(), 2)
    shutil.copytree(raw, tmp_path / "all" / "realiad")
    assert verify_inputs(tmp_path / "renders", tmp_path, tmp_path / "all", Silent()) == (sum(counts.values()) + 1, [])
    made = pack_realiad(raw, "plate", tmp_path, OPTIONS, Silent(), 2, overwrite=True)
    whole = files.read_json(made)
    assert "validation" not in whole["config"], "the paper's protocol, and the shards of before, are the default"
    assert {entry["split"]: entry["samples"] for entry in whole["shards"]} == before


def test_defective_training_samples_are_not_held_out(workspace: Path, tmp_path: Path) -> None:
    """Real-IAD's splits of FUIAD train on some; a validation split has good samples only."""
    shutil.copytree(workspace / "raw" / "realiad", tmp_path / "raw")
    place = tmp_path / "raw" / "realiad_jsons" / "plate.json"
    content = json.loads(place.read_text())
    moved = [entry for entry in content["test"] if entry["image_path"].startswith("NG/")]
    content["train"] += moved
    content["test"] = [entry for entry in content["test"] if entry not in moved]
    place.write_text(json.dumps(content))
    made = pack_realiad(tmp_path / "raw", "plate", tmp_path / "out", OPTIONS, Silent(), 2, validation=0.5)
    shards = {entry["split"]: entry for entry in files.read_json(made)["shards"]}
    assert shards["validation"]["anomalous"] == 0
    assert shards["validation"]["samples"] == 2
    assert shards["train"]["anomalous"] > 0


def test_table_1_says_where_it_leaves_the_papers_protocol(workspace: Path, tmp_path: Path) -> None:
    raw = workspace / "raw" / "realiad"
    for name, share in (("whole", 0.0), ("parted", 0.25)):
        made = pack_realiad(raw, "plate", tmp_path / name, OPTIONS, Silent(), 2, validation=share)
        plans = reproduce.plan(TABLES["table1"], [made.parent], ["padim"], [0])
        told = [line for line in reproduce.notes(TABLES["table1"], plans) if "held out" in line]
        expected = (
            "realiad/plate: 25 % of the training samples are held out for validation, the paper trains on all; "
            "mvad pack --dataset realiad --validation 0 --overwrite keeps to its protocol"
        )
        assert told == ([expected] if share else [])


def test_the_command_says_what_no_validation_means(workspace: Path, tmp_path: Path) -> None:
    words = ("pack", "--dataset", "realiad", "--raw", str(workspace / "raw" / "realiad"), "--size", "64")
    done = mvad(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no training sample is held out, as the published protocols have it, so runs get no threshold" in done.stdout
    again = mvad(*words, "--validation", "0.5", cwd=tmp_path)
    assert again.returncode == 3
    assert "packed with validation = none, this run asks for 0.5. Give --overwrite" in again.stderr.splitlines()[-1]
    dry = mvad(*words, "--validation", "0.5", "--dry-run", cwd=tmp_path)
    assert ["realiad/plate", "validation", "2", "10"] in [line.split()[:4] for line in dry.stdout.splitlines()]
    done = mvad(*words, "--validation", "0.5", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no training sample" not in done.stdout
    folder = workspace / "renders"
    done = mvad(
        "pack", "--dataset", "mvtec3d", "--validation", "0.5", "--workspace", str(folder.parent), "--dry-run", cwd=tmp_path
    )
    assert done.returncode == 3
    assert "renders keep the splits of their scans" in done.stderr


def test_repaired_shards_hold_out_what_they_held_out(workspace: Path, tmp_path: Path) -> None:
    raw, places = tmp_path / "raw", Workspace(tmp_path)
    shutil.copytree(workspace / "raw" / "realiad", raw / "realiad")
    folder = api.pack("realiad", "plate", raw / "realiad", places.shards, OPTIONS, 2, validation=0.5)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".h5", ".json")}
    (folder / "manifest.json").write_text("{}")
    (folder / "validation-00000.h5").write_bytes(b"")
    fault = Fault("damaged", folder / "manifest.json", "shards", folder)
    repair([fault], raw, places, WeightsSource(None, places.weights, True), Silent())
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".h5", ".json")} == before
