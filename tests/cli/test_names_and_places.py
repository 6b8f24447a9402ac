"""Names that do not exist, folders one level off, ``~``, other users and read-only workspaces, as they are met in the field."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import MVAD, python, surroundings
from training import NOWHERE, train

from mvad import kernel_cache
from mvad.datasets.registry import find_categories, reader_for
from mvad.errors import BadInput, UnknownName
from mvad.model.evaluation.evaluate import evaluate_run
from mvad.model.runs import run_name
from mvad.progress import Silent

GEAR = Path("mvtec3d") / "gear"

UNKNOWN = {
    "dataset": (["render", "mvtec2d"], "mvtec3d"),
    "dataset to generate": (["synth", "eyecandy"], "eyecandies"),
    "dataset to train on": (["train", "--dataset", "mvtec", "--workspace", "{ws}"], "mvtec3d"),
    "dataset to pack": (["pack", "--dataset", "eyecandie", "--workspace", "{ws}"], "eyecandies"),
    "category to render": (["render", "mvtec3d", "--category", "gaer", "--workspace", "{ws}"], "gear"),
    "category to train on": (["train", "--category", "geer", "--workspace", "{ws}"], "gear"),
    "category to pack": (["pack", "--category", "Dom", "--workspace", "{ws}"], "dome"),
    "preset": (["train", "--preset", "smal", "--workspace", "{ws}", "--category", "gear"], "small"),
    "backend": (["render", "mvtec3d", "--backend", "elg", "--workspace", "{ws}"], "egl"),
    "table": (["reproduce", "tabel1"], "table1"),
    "model": (["train", "--model", "Padim2", "--workspace", "{ws}", "--category", "gear"], "padim"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_name_is_a_usage_error_with_the_nearest(kind: str, workspace: Path, tmp_path: Path) -> None:
    arguments, meant = UNKNOWN[kind]
    done = python("mvad.cli.main", *(word.format(ws=workspace) for word in arguments), cwd=tmp_path, environment=surroundings())
    assert done.returncode == 2, done.stderr
    assert re.search(rf"^mvad: .*did you mean {meant}\b.*choose from", done.stderr, re.M), done.stderr


def test_photographs_are_said_to_need_no_rendering(tmp_path: Path) -> None:
    done = python("mvad.cli.main", "render", "realiad", cwd=tmp_path)
    assert done.returncode == 2
    assert "need no rendering; run mvad pack --dataset realiad" in done.stderr
    with pytest.raises(UnknownName):
        reader_for("realiad")


@pytest.mark.parametrize("below", ["", "raw", "raw/mvtec3d/gear", "raw/mvtec3d/gear/train", "raw/mvtec3d/gear/train/good/xyz"])
def test_a_raw_folder_one_level_off_says_where_the_categories_are(below: str, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "raw" / "mvtec3d", tmp_path / "raw" / "mvtec3d")
    with pytest.raises(BadInput, match=rf"gear.*give --raw {re.escape(str(tmp_path / 'raw' / 'mvtec3d'))}$"):
        find_categories(reader_for("mvtec3d"), tmp_path / below)
    with pytest.raises(BadInput, match="its categories are those of mvtec3d"):
        find_categories(reader_for("eyecandies"), tmp_path / "raw" / "mvtec3d")


def test_the_home_stands_for_a_tilde_in_options_and_variables(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(workspace)
    for more, words in (({}, ["--workspace=~/mine"]), ({"MVAD_WORKSPACE": "~/mine"}, [])):
        environment = surroundings(HOME=str(tmp_path), **more)
        done = python("mvad.cli.main", "status", *words, cwd=tmp_path, environment=environment)
        assert done.returncode == 0
        assert "gear" in done.stdout, "the shell leaves ~ in --option=~/x and in variables"
    words = ["pack", "--raw=~/mine/raw/realiad", "--dataset", "realiad", "--dry-run"]
    packed = python("mvad.cli.main", *words, cwd=tmp_path, environment=surroundings(HOME=str(tmp_path)))
    assert "realiad/plate" in packed.stdout, packed.stderr
    wrong = python("mvad.cli.main", "status", "--workspace", "~nobody-has-this-name/x", cwd=tmp_path)
    assert wrong.returncode == 2
    assert not (tmp_path / "~nobody-has-this-name").exists()


def test_no_name_makes_nested_folders(workspace: Path, tmp_path: Path) -> None:
    assert run_name("mvtec3d", "gear", "M3DM w/o UFF", 0) == "mvtec3d-gear-M3DM w-o UFF-seed0"
    for xyz in sorted((workspace / "raw" / GEAR / "test").glob("*/xyz/*.tiff")):
        target = tmp_path / "maps" / "gear" / "test" / xyz.parent.parent.name / f"{xyz.stem}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, np.random.default_rng(0).random((16, 16)).astype("f4"))
    words = ["--category", "gear", "--raw", str(workspace / "raw" / "mvtec3d"), "--workspace", str(tmp_path)]
    done = python("mvad.cli.main", "evaluate", "--maps", str(tmp_path / "maps"), "--model", "M3DM w/o UFF", *words)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mvtec3d-gear-M3DM w-o UFF-maps"]
    report = python("mvad.cli.main", "report", "--workspace", str(tmp_path))
    assert report.returncode == 0, "the report finds it"
    assert "M3DM w/o UFF" in (tmp_path / "report.html").read_text()
    named = ["train", "--name", "a/b", "--workspace", str(workspace), "--category", "gear"]
    assert "--name a/b: must be the name of one folder, such as a-b" in python("mvad.cli.main", *named).stderr


def test_kernels_are_kept_in_a_temporary_folder_where_nothing_else_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    monkeypatch.setattr(kernel_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.delenv(kernel_cache.VARIABLE, raising=False)
    kernel_cache.choose_kernel_cache(package)
    assert kernel_cache.VARIABLE not in os.environ, "the package's own folder can be written"
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "package" not in str(path) and "/proc" not in str(path) and allowed(path, mode)
    )
    kernel_cache.choose_kernel_cache(package)
    chosen = Path(os.environ[kernel_cache.VARIABLE])
    assert chosen.parent == tmp_path
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700, "another user must not put code there"
    monkeypatch.delenv(kernel_cache.VARIABLE)
    chosen.chmod(0o777)
    kernel_cache.choose_kernel_cache(package)
    assert Path(os.environ[kernel_cache.VARIABLE]) != chosen
    monkeypatch.setenv(kernel_cache.VARIABLE, "/proc/nowhere")
    kernel_cache.choose_kernel_cache(package)
    assert os.environ[kernel_cache.VARIABLE].startswith(str(tmp_path)), "one that cannot be written is replaced"


AS_OTHER = [
    "setpriv",
    "--reuid",
    "12345",
    "--regid",
    "12345",
    "--clear-groups",
    "--inh-caps",
    "+dac_read_search",
    "--ambient-caps",
]
AS_OTHER += ["+dac_read_search"]


@pytest.fixture(scope="module")
def foreign(workspace: Path) -> Iterator[Path]:
    """Yield a workspace with an evaluated run, which another user may read and not write; pytest's folders are for one user."""
    with tempfile.TemporaryDirectory(prefix="mvad-foreign-") as folder:
        Path(folder).chmod(0o755)
        yield evaluated(Path(folder), workspace)


@pytest.fixture
def mine() -> Iterator[Path]:
    """Yield a folder of the other user."""
    with tempfile.TemporaryDirectory(prefix="mvad-mine-") as folder:
        if os.getuid() == 0:
            os.chown(folder, 12345, 12345)
        yield Path(folder)


def evaluated(root: Path, workspace: Path) -> Path:
    shutil.copytree(workspace / "shards" / GEAR, root / "shards" / GEAR)
    train(root / "runs" / "floor", root / "shards" / GEAR, model="mean_feature")
    evaluate_run(root / "runs" / "floor", root / "shards", NOWHERE, Silent())
    return root


def as_other(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user who may read all files, write none of ours, and has neither a home nor a name."""
    if os.getuid() != 0 or subprocess.run([*AS_OTHER, "true"], capture_output=True).returncode:
        pytest.skip("needs root and setpriv, to become another user")
    environment = surroundings(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent", TMPDIR=str(cwd))
    return subprocess.run([*AS_OTHER, *MVAD, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.thorough(8)
def test_a_workspace_of_another_user_is_one_line_and_its_results_can_go_elsewhere(foreign: Path, mine: Path) -> None:
    where = ["--workspace", str(foreign)]
    refused = as_other("evaluate", *where, "--again", cwd=mine)
    assert refused.returncode == 3, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "numba" not in refused.stderr
    assert re.search(r"^mvad: .*cannot be written: Permission denied; give a folder that you may write to", refused.stderr, re.M)
    done = as_other("evaluate", *where, "--out", str(mine / "results"), cwd=mine)
    assert done.returncode == 0, done.stderr
    page = as_other("report", str(mine / "results" / "floor"), "--out", str(mine / "page.html"), cwd=mine)
    assert page.returncode == 0, page.stderr
    assert "mean_feature" in (mine / "page.html").read_text()
    assert list(mine.glob("mvad-kernels-12345*")), "kernels were compiled, in the temporary folder"


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_a_folder_that_cannot_be_written_is_one_line(command: str, foreign: Path, tmp_path: Path) -> None:
    """The folder's name is taken by a file, which no one may write into, root included."""
    (tmp_path / "taken").write_text("")
    target = str(tmp_path / "taken" / "x")
    words = {
        "report": ["report", "--workspace", str(foreign), "--out", target],
        "inspect": ["inspect", str(foreign / "shards" / GEAR / "test-00000.h5"), "--sheet", target],
    }[command]
    done = python("mvad.cli.main", *words)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"mvad: {target}: cannot be written: ")


def test_an_error_of_the_operating_system_is_one_line(foreign: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mvad.cli import main\nimport mvad.pipeline.status as status\n"
        "def refuse(path):\n    raise PermissionError(13, 'Permission denied', '/secret')\n"
        "status._run = refuse\nsys.argv[1:] = ['status', '--workspace', sys.argv[1]]\nmain.run()\n"
    )
    done = python(None, str(foreign), code=code, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == "mvad: /secret: Permission denied; mvad --debug shows what needed it\n"
