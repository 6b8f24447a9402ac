"""Command line: start-up time, exit codes, examples in the help, interruption."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from command import HIDDEN, MVAD, ROOT, mvad, said, start, surroundings
from PIL import Image

from mvad.cli import main
from mvad.datasets.exported import read_table

VERBS = (
    "synth", "render", "pack", "inspect", "verify", "export", "train", "evaluate", "import", "predict", "reproduce", "report", "status",
    "doctor",
)  # fmt: skip
SMALL_SYNTH = ("--size", "160", "--good", "4", "--per-defect", "1")
"""Appended to the example of ``synth``: the same command on less work."""


def example(verb: str) -> str:
    text = " ".join(mvad(verb, "--help").stdout.split())
    found = re.search(r"Example: (mvad .*)$", text)
    assert found, f"mvad {verb} --help does not end with an example"
    return found[1]


def test_help_does_not_import_large_libraries() -> None:
    code = (
        "import sys\nsys.argv = ['mvad', '--help']\nfrom mvad.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'h5py', 'open3d', 'pyrender', 'numba', 'scipy', 'rich', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings())
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert all(verb in done.stdout for verb in VERBS)


def test_commands_are_listed_in_the_order_of_the_work_with_whole_summaries() -> None:
    listed = mvad("--help").stdout.partition("Commands:")[2].partition("Example:")[0].splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    assert names[:6] == ["synth", "render", "pack", "train", "evaluate", "report"]
    assert len(names) == len(set(names)) >= len(VERBS)
    assert not any(line.endswith("...") for line in listed)


@pytest.mark.thorough(4)
def test_the_examples_of_the_help_run_one_after_the_other(workspace: Path, tmp_path: Path) -> None:
    """Runs the examples in the order of a workflow, in an empty folder with a dataset beside it."""
    shutil.copytree(workspace / "raw" / "mvtec3d" / "gear", tmp_path / "downloads" / "mvtec3d" / "cable_gland")
    for verb in (
        "render",
        "pack",
        "inspect",
        "export",
        "train",
        "evaluate",
        "import",
        "predict",
        "reproduce",
        "report",
        "verify",
        "status",
        "doctor",
        "synth",
    ):
        line = shlex.split(example(verb))
        assert line[:2] == ["mvad", verb]
        if verb == "import":
            random_maps(tmp_path / line[2], tmp_path / line[3])
        done = mvad(*line[1:], *(SMALL_SYNTH if verb == "synth" else ()), cwd=tmp_path)
        assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"
        if verb == "doctor":
            assert "no" not in [line.split()[0] for line in done.stdout.splitlines()]
    assert (tmp_path / "sheet.png").exists()
    assert "<td>padim<br>" in (tmp_path / "report.html").read_text()


def random_maps(exported: Path, maps: Path) -> None:
    """Write random maps of an export, as another tool might."""
    for view in ("view_0", "view_1", "view_2", "view_3", "view_4"):
        for row in read_table(exported, view):
            if row["split"] == "test":
                target = (maps / view / row["image_path"]).with_suffix(".npy")
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(target, np.random.default_rng(0).random((32, 32)))


CASES = {
    "no such verb": (["rendre"], 2),
    "no such option": (["render", "mvtec3d", "--veiws", "5"], 2),
    "value out of range": (["render", "mvtec3d", "--views", "0"], 2),
    "no such dataset": (["render", "mvtec2d"], 2),
    "no such folder": (["render", "mvtec3d", "--raw", "nowhere"], 3),
    "disagreeing views of a scan": (["synth", "mvtec3d", "--category", "keyed"], 3),
    "no such split": (["render", "mvtec3d", "--split", "tset"], 2),
    "unknown key": (["render", "mvtec3d", "--set", "rig.tild_deg=3"], 3),
    "nothing to pack": (["pack"], 3),
    "unknown filter": (["pack", "--raw", "{raw}", "--filter", "zip"], 2),
    "nothing to train": (["train"], 3),
    "unknown preset": (["train", "--preset", "tiny", "--workspace", "{ws}"], 2),
    "unknown model": (["train", "--model", "gan", "--workspace", "{ws}", "--category", "gear"], 2),
    "no textures": (["train", "--workspace", "{ws}", "--category", "gear", "--name", "never"], 5),
    "no weights": (
        ["train", "--workspace", "{ws}", "--category", "gear", "--teacher", "resnet18", "--offline", "--name", "never"],
        5,
    ),
    "too few to hold out": (
        ["train", "--workspace", "{ws}", "--category", "gear", "--model", "padim", "--teacher", "tiny", "--holdout", "0.5"],
        3,
    ),
    "too much held out": (["train", "--workspace", "{ws}", "--category", "gear", "--holdout", "0.6"], 3),
    "nothing to evaluate": (["evaluate"], 3),
    "nothing to report": (["report"], 3),
    "no such table": (["reproduce", "table4"], 2),
    "nothing to reproduce": (["reproduce", "table1"], 3),
    "no run to predict with": (["predict", "nowhere", "."], 3),
    "unknown rule of fusing": (["evaluate", "--workspace", "{ws}", "--project-to-scan", "--fuse", "median"], 2),
    "some views on the scan": (["evaluate", "--workspace", "{ws}", "--project-to-scan", "--views", "0"], 3),
    "maps of nothing": (["evaluate", "--maps", "nowhere"], 3),
    "unknown format": (["export", "--workspace", "{ws}", "--format", "tflite"], 2),
    "nothing to verify": (["verify"], 3),
    "unknown level": (["pack", "--raw", "{raw}", "--filter", "lz4", "--level", "3"], 3),
    "unknown field": (["pack", "--raw", "{raw}", "--fields", "rgb,thermal"], 2),
    "nothing to export": (["export"], 3),
    "unknown layout": (["export", "--workspace", "{ws}", "--layout", "coco", "--out", "exports"], 2),
    "a name that is a path": (["import", "nowhere", "maps", "--name", "../x"], 3),
    "no export": (["import", "nowhere", "maps", "--name", "x"], 3),
    "no shard": (["inspect", "nowhere.h5"], 3),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_is_one_line_with_the_right_exit_code(
    name: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in HIDDEN:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arguments, code = CASES[name]
    filled = [word.format(ws=workspace, raw=workspace / "raw" / "realiad") for word in arguments]
    monkeypatch.setattr(sys, "argv", ["mvad", *filled])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main.run()
    signal.signal(signal.SIGTERM, handler)
    error = capsys.readouterr().err
    assert left.value.code == code, error
    assert "Traceback" not in error
    said = [line for line in error.splitlines() if line.startswith("mvad: ")]
    if code != 2 or said:
        assert error.splitlines()[-1:] == said, "one line, the last; before it may stand what was done"
    assert not (workspace / "runs" / "never").exists(), "nothing is written if a component is missing"


def test_other_categories_are_packed_if_one_cannot_be(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "renders", tmp_path / "mvad-data" / "renders")
    next((tmp_path / "mvad-data" / "renders" / "eyecandies").rglob("rgb_2.png")).write_bytes(b"")
    done = mvad("pack", "--raw", str(workspace / "raw" / "realiad"), "--size", "64", cwd=tmp_path)
    assert done.returncode == 6
    assert "failed: eyecandies/dome:" in done.stderr
    assert "rgb_2.png: is not what was rendered" in done.stderr
    assert "1 of 3 categories is not packed" in done.stderr
    packed = sorted(path.parent.name for path in (tmp_path / "mvad-data" / "shards").glob("*/*/manifest.json"))
    assert packed == ["gear", "plate"]


def test_a_renamed_key_is_told_in_one_line(workspace: Path, tmp_path: Path) -> None:
    words = ["--workspace", str(workspace), "--category", "gear", "--offline", "--name", "never", "--teacher", "resnet18"]
    done = mvad("train", "--set", "score.top=50", *words, cwd=tmp_path)
    assert done.returncode == 5
    assert done.stderr.splitlines()[0].startswith("mvad: notice: --set: score.top was renamed to score.top_k")
    assert done.stderr.count("\n") == 2


@pytest.mark.thorough(6)
def test_doctor_tells_what_is_missing_without_open3d_and_does_not_fail(tmp_path: Path) -> None:
    for name in ("open3d", "trimesh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}", "COLUMNS": "200"}
    done = subprocess.run([*MVAD, "doctor", "--offline"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("open3d", "trimesh"):
        assert re.search(rf"note {name}: does not import, so that .* \(ImportError: libGL", done.stdout), done.stdout


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = mvad("--debug", "render", "mvtec3d", "--raw", "nowhere", cwd=tmp_path)
    assert "Traceback" in done.stderr


def test_a_damaged_scan_gives_the_exit_code_of_partly_done(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    next((tmp_path / "raw" / "gear" / "test" / "hole" / "rgb").iterdir()).write_bytes(b"")
    done = mvad("render", "mvtec3d", "--raw", "raw", "--size", "64", cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "1 scan failed" in done.stderr
    assert (tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear" / "failed.jsonl").read_text().count("\n") == 1


@pytest.mark.thorough(6)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_render_has_a_manifest_and_can_be_continued(
    number: int, code: int, workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    for copy in range(6):
        for kind, suffix in (("xyz", "tiff"), ("rgb", "png")):
            folder = tmp_path / "raw" / "gear" / "train" / "good" / kind
            shutil.copy(sorted(folder.iterdir())[0], folder / f"9{copy:02d}.{suffix}")
    arguments = ["render", "mvtec3d", "--raw", "raw", "--size", "320", "--jobs", "1"]
    folder = tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear"
    process = start("mvad.cli.main", *arguments, cwd=tmp_path, out=tmp_path / "said")
    wait_for_a_sample(folder)
    os.kill(process.pid, number)
    assert process.wait(60) == code
    assert (folder / "manifest.json").exists()
    assert "Traceback" not in said(tmp_path / "said")[1]
    done = mvad(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert "20 rendered" not in done.stdout


def finished(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*/*/record.json") if ".part-" not in path.parent.name]


def wait_for_a_sample(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not finished(folder) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_two_processes_do_not_write_the_same_output(workspace: Path, tmp_path: Path) -> None:
    from mvad import files

    with files.locked(tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear"):
        done = mvad("render", "mvtec3d", "--raw", str(workspace / "raw" / "mvtec3d"), cwd=tmp_path)
    assert done.returncode == 3
    assert "another mvad" in done.stderr


def test_other_cameras_and_centred_scans_are_rendered_packed_and_not_mixed_with_old_output(
    workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    text = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "rigs.md").read_text(), re.S)[0]
    (tmp_path / "rig.toml").write_text(text.replace("size = 256", "size = 96").replace(", 128]", ", 48]").replace("2000", "700"))
    render = ["render", "mvtec3d", "--raw", "raw", "--split", "test"]
    done = mvad(*render, "--rig", "rig.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear"
    assert sorted(path.name for path in (folder / "test" / "good").iterdir().__next__().glob("rgb_*")) == [
        "rgb_0.png",
        "rgb_1.png",
    ]
    again = mvad(*render, "--size", "96", "--views", "2", cwd=tmp_path)
    assert again.returncode == 3
    assert "--overwrite" in again.stderr
    both = mvad(*render, "--rig", "rig.toml", "--views", "3", cwd=tmp_path)
    assert both.returncode == 3
    assert "--rig defines views" in both.stderr
    still = mvad(*render, "--center", "scan", "--size", "96", "--overwrite", cwd=tmp_path)
    assert still.returncode == 3
    assert "give --frame sensor" in still.stderr
    of_file = json.loads((folder / "rig.json").read_text())
    assert (of_file["config"]["rig.frame"], "frame" in of_file["rig"]) == ("sensor", False), "the cameras of a file stand still"
    moving = mvad(*render, "--rig", "rig.toml", "--frame", "object", "--overwrite", cwd=tmp_path)
    assert moving.returncode == 3
    centred = mvad(
        *render, "--split", "train", "--frame", "sensor", "--center", "scan", "--size", "96", "--overwrite", cwd=tmp_path
    )  # fmt: skip
    assert centred.returncode == 0, centred.stderr
    for path in folder.glob("*/*/*/record.json"):
        record = json.loads(path.read_text())
        assert np.linalg.norm(np.array(record["pose"])[:3, 3]) < 0.03
        seen = np.argwhere(np.array(Image.open(path.with_name("depth_0.png"))) > 0)
        middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
        assert np.abs(middle - 48).max() < 5, "each object is in the middle of its view 0"
    assert mvad("pack", cwd=tmp_path).returncode == 0
    with h5py.File(tmp_path / "mvad-data" / "shards" / "mvtec3d" / "gear" / "train-00000.h5") as file:
        records = [json.loads((folder / key.partition("/")[2] / "record.json").read_text()) for key in file["key"].asstr()]
        assert np.array_equal(file["pose"], [record["pose"] for record in records])
        assert np.abs(file["pose"][:, :3, 3]).max() > 1e-4


@pytest.mark.thorough(12)
@pytest.mark.egl
def test_a_missing_driver_or_device_is_exit_5_with_a_remedy(workspace: Path, tmp_path: Path) -> None:
    raw = str(workspace / "raw" / "mvtec3d")
    wrong = mvad("render", "mvtec3d", "--raw", raw, "--backend", "egl", "--device", "99", cwd=tmp_path)
    assert wrong.returncode == 5
    assert "no device 99; found 0" in wrong.stderr
    hidden = surroundings(__EGL_VENDOR_LIBRARY_FILENAMES="/nowhere.json")
    command = [*MVAD, "render", "mvtec3d", "--raw", raw, "--size", "64"]
    without = subprocess.run([*command, "--backend", "egl"], capture_output=True, text=True, cwd=tmp_path, env=hidden)
    assert without.returncode == 5
    assert "libegl1" in without.stderr
    assert "--backend cpu" in without.stderr
    assert [line for line in without.stderr.splitlines() if line.startswith("mvad: ")] == without.stderr.splitlines()[-1:]
    assert not (tmp_path / "mvad-data").exists(), "nothing is written if a component is missing"
    cpu = subprocess.run([*command, "--backend", "cpu"], capture_output=True, text=True, cwd=tmp_path, env=hidden)
    assert cpu.returncode == 0, cpu.stderr


@pytest.mark.thorough(6)
def test_ctrl_c_stops_workers_without_a_traceback_and_is_resumed(workspace: Path, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the process group, workers included."""
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw")
    for copy in range(14):
        for kind, suffix in (("xyz", "tiff"), ("rgb", "png")):
            folder = tmp_path / "raw" / "gear" / "train" / "good" / kind
            shutil.copy(sorted(folder.iterdir())[0], folder / f"9{copy:02d}.{suffix}")
    arguments = ["render", "mvtec3d", "--raw", "raw", "--size", "320", "--jobs", "2"]
    folder = tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear"
    process = start("mvad.cli.main", *arguments, cwd=tmp_path, out=tmp_path / "said", session=True)
    wait_for_a_sample(folder)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in said(tmp_path / "said")[1]
    assert "mvad: " not in said(tmp_path / "said")[1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 1 <= len(manifest["samples"]) < 28
    assert mvad(*arguments, "--jobs", "1", cwd=tmp_path).returncode == 0
    assert len(json.loads((folder / "manifest.json").read_text())["samples"]) == 28
    assert not list(folder.rglob("*.part-*"))


def test_a_render_prints_the_audit_of_points_and_ground_truth(workspace: Path, tmp_path: Path) -> None:
    done = mvad("render", "mvtec3d", "--raw", str(workspace / "raw" / "mvtec3d"), "--size", "64", cwd=tmp_path)
    assert done.returncode == 0
    audit = json.loads((tmp_path / "mvad-data" / "renders" / "mvtec3d" / "gear" / "audit.json").read_text())["summary"]
    assert f"{100 * audit['background']['object'] / audit['background']['grid']:.1f}" in done.stdout
    assert f"{100 * audit['seen_any'] / audit['total']:.1f}" in done.stdout
    for view in audit["views"]:
        assert abs(view["seen"] + view["no_point"] + view["removed"] + view["occluded"] - 1) < 2e-3
