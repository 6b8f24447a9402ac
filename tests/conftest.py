"""The one fixture module: generated data once a run, real data where MVAD_REAL_DATA says, and which tests are run.

What proves something exhaustively (a crash at every step, a flip in every file) is marked ``thorough(share)``. Without
``--thorough`` (or MVAD_THOROUGH=1) one in ``share`` of these tests is run, and the fixture ``sampled`` gives such a test a
part of its cases. Which part follows from the commit, so that many commits see all of it; a run prints its number, and
MVAD_SAMPLE=NUMBER takes that part again. A test that the command line names (``FILE::TEST``) is always run.

With ``--dist loadgroup`` a module that has fixtures of its own goes to one worker, which builds them once.
"""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers with a pool each are several times as slow

import contextlib
import fcntl
import functools
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
from training import train

from mvad import files
from mvad.datasets.photographs.sets.registry import photograph_sets
from mvad.datasets.scan import Scan
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.synth.generate import GENERATED, SynthOptions, generate
from mvad.errors import MissingComponent
from mvad.progress import Silent
from mvad.render.backends import choose
from mvad.render.backends.choose import BACKENDS, rasteriser
from mvad.render.backends.protocol import Rasteriser
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

SMALL = SynthOptions(seed=3, train=4, validation=1, good=2, per_defect=1, size=160)
ROOT = Path(__file__).parents[1]
os.environ["MVAD_OFFLINE"] = "1"  # no test asks the network, nor does a command that a test starts
os.environ["PYTHONPATH"] = str(ROOT / "src")  # what a test starts runs this checkout's code, whatever is installed
CATEGORY = {"mvtec3d": "gear", "eyecandies": "dome", "realiad": "plate"}
VIEW = 64
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run all of what proves exhaustively, not a part of it")


def pytest_configure(config: pytest.Config) -> None:
    """Decide which part of the thorough tests is run; the workers of xdist inherit what the first process decides."""
    if config.getoption("--thorough"):
        os.environ["MVAD_THOROUGH"] = "1"
    if "MVAD_SAMPLE" not in os.environ:
        commit = ""
        with contextlib.suppress(OSError):  # no git
            commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
        os.environ["MVAD_SAMPLE"] = str(int(commit[:6] or "0", 16))


def is_thorough() -> bool:
    return os.environ.get("MVAD_THOROUGH", "") not in ("", "0")


def pytest_report_header() -> str:
    if is_thorough():
        return "thorough: everything is run"
    return f"thorough: part MVAD_SAMPLE={os.environ['MVAD_SAMPLE']} is run; --thorough runs everything"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out thorough tests whose turn it is not."""
    if not is_thorough() and not any("::" in argument for argument in config.args):
        marks = [item.get_closest_marker("thorough") for item in items]
        modules = [item.nodeid.split("::")[0] for item in items]
        shares = [(module, int(mark.args[0]) if mark else 1) for module, mark in zip(modules, marks, strict=True)]
        turns = have_turns(shares, int(os.environ["MVAD_SAMPLE"]))
        config.hook.pytest_deselected(items=[item for item, turn in zip(items, turns, strict=True) if not turn])
        items[:] = [item for item, turn in zip(items, turns, strict=True) if turn]
    users = (item for item in items if uses_workspace(item) and has_module_fixtures(item.path))
    builder = next((item.path for item in users), None)

    def rank(item: pytest.Item) -> int:
        if item.path == builder:
            return 0  # one worker builds the workspace that all share
        if "/render/" in item.nodeid and not uses_workspace(item):
            return 1  # meanwhile the others do what needs none
        return 2 if "/stories/" in item.nodeid else 3  # the longest begin early, so that workers end together

    items.sort(key=rank)


def uses_workspace(item: pytest.Item) -> bool:
    return "workspace" in getattr(item, "fixturenames", ())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Deal out modules that have fixtures of their own as a whole, and of all others test by test.

    xdist 3.8 ignores its own groups under pytest 9.2, whose node ids cannot be written to any more.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByModuleFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.split("::")[0]
            return module if has_module_fixtures(config.rootpath / module) else nodeid

    return ByModuleFixtures(config, log)


@functools.cache
def has_module_fixtures(path: Path) -> bool:
    return 'scope="module"' in path.read_text()


def have_turns(shares: Sequence[tuple[str, int]], number: int) -> list[bool]:
    """Tell for each test, of some module and run in one of so many parts, whether it is run in part ``number``."""
    met, turns = Counter[tuple[str, int]](), []
    for place in shares:
        turns.append((met[place] + number) % place[1] == 0)
        met[place] += 1
    return turns


def one_in(cases: Sequence[T], share: int, number: int) -> list[T]:
    """Return the cases of part ``number`` of so many."""
    return list(cases[number % share :: share])


class Sampled(Protocol):
    """Gives one in so many of some cases, or all of them in a thorough run."""

    def __call__(self, cases: Sequence[T], share: int) -> list[T]: ...


@pytest.fixture(scope="session")
def sampled() -> Sampled:
    """Return the function with which a test that proves exhaustively takes its part of the cases."""
    number = int(os.environ["MVAD_SAMPLE"])

    def take(cases: Sequence[T], share: int) -> list[T]:
        return list(cases) if is_thorough() else one_in(cases, share, number)

    return take


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped that this machine must be able to run (MVAD_FAIL_ON_SKIP=egl,browser)."""
    markers = [marker for marker in os.environ.get("MVAD_FAIL_ON_SKIP", "").split(",") if marker]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not markers or reporter is None:
        return
    stats = reporter.stats.get("skipped", [])
    skipped = [report.nodeid for report in stats if any(marker in report.keywords for marker in markers)]
    if skipped:
        reporter.write_line(f"ERROR: {' and '.join(markers)} tests were skipped: {', '.join(skipped)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests counted (``tell``), wherever they ran."""
    told = [
        value for report in terminalreporter.stats.get("passed", []) for name, value in report.user_properties if name == "told"
    ]
    if told:
        terminalreporter.section("counted")
        for line in told:
            terminalreporter.write_line(line)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what a test counted; the lines stand at the end of the run."""
    return lambda line: record_property("told", line)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Generated raw data of the three datasets, rendered and packed, all very small; built once for all workers of a run.

    Tests read it and copy what they change. Whoever changes it fails the last test of its worker.
    """
    root, sums = built_once(tmp_path_factory, "workspace", build_workspace)
    yield root
    assert sums_of(root) == sums, "a test has changed the workspace that all tests share"


def built_once(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> tuple[Path, dict[str, str]]:
    """Return a folder that one worker of a run builds for all of them, and the hashes of its files as they were then."""
    shared = folder_of_all_workers(tmp_path_factory)
    root, sums = shared / name, shared / f"{name}.json"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not sums.exists():
            shutil.rmtree(root, ignore_errors=True)
            build(root)
            sums.write_text(json.dumps(sums_of(root)))
    return root, json.loads(sums.read_text())


def folder_of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mine = tmp_path_factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


def sums_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file; locks are no content."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): files.sha256_file(path) for path in found}


def build_workspace(root: Path) -> None:
    for dataset, category in CATEGORY.items():
        generate(dataset, root / "raw" / dataset, [category], SMALL, Silent())
    for dataset in ("mvtec3d", "eyecandies"):
        render_category(
            dataset, CATEGORY[dataset], root / "raw" / dataset, root / "renders", small_options(),
            ("train", "validation", "test"), Workers(), False, Silent(),
        )  # fmt: skip
        pack_renders(root / "renders", dataset, CATEGORY[dataset], root / "shards", PackOptions(), Silent())
    pack_realiad(root / "raw" / "realiad", CATEGORY["realiad"], root / "shards", PackOptions(size=VIEW), Silent())


@pytest.fixture(scope="session")
def trained(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return what gives the tiny run of a method on a dataset, trained once per run of pytest; copy it before changing it."""
    root = folder_of_all_workers(tmp_path_factory) / "trained"
    root.mkdir(exist_ok=True)

    def run_of(method: str, dataset: str) -> Path:
        run = root / f"{dataset}-{method}"
        with (root / f"{run.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            train(run, workspace / "shards" / dataset / CATEGORY[dataset], model=method)
        return run

    return run_of


def small_options() -> RenderOptions:
    return RenderOptions(backend="cpu", rig=RigOptions(size=VIEW))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip."""
    folder = os.environ.get("MVAD_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real scans: set MVAD_REAL_DATA to a folder with mvtec3d, eyecandies, realiad, dtd")
    return Path(folder)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.egl) if name == "egl" else name for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> Iterator[Rasteriser]:
    """Each rasteriser by its name, or skip where the machine cannot give it."""
    try:
        yield rasteriser(request.param)
    except MissingComponent as error:
        pytest.skip(str(error))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return what makes a new EGL rasteriser with what the test has changed, or skip."""
    try:
        choose.rasteriser("egl")
    except MissingComponent as error:
        pytest.skip(str(error))
    monkeypatch.setattr(choose, "rasteriser", choose.rasteriser.__wrapped__)
    return lambda: choose.rasteriser("egl")


@pytest.fixture
def no_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every texture source of the surroundings."""
    for name in ("MVAD_TEXTURES", "MVAD_REAL_DATA"):
        monkeypatch.delenv(name, raising=False)
    return


def wavy_scan(size: int = 96) -> Scan:
    """A bumpy sheet in front of a pinhole sensor: every point valid, each with a colour of its own."""
    line = (np.arange(size) - size / 2) / size * 0.1
    x, y = np.meshgrid(line, line)
    z = 0.6 + 0.004 * np.sin(x * 150) * np.cos(y * 130)
    xyz = np.stack([x * z / 0.6, y * z / 0.6, z], axis=2).astype(np.float32)
    index = np.arange(size * size).reshape(size, size)
    rgb = np.stack([index % 256, index // 256 % 256, (index * 7) % 256], axis=2).astype(np.uint8)
    return Scan(xyz, np.ones((size, size), bool), rgb, index % 5 == 0)


def block_on_a_plane(tilt_deg: float = 20.0, size: int = 120) -> tuple[Scan, np.ndarray]:
    """A 20 mm block on a tilted plane under an orthographic sensor; returns the scan and where the block is."""
    line = (np.arange(size) - size / 2) / size * 0.1
    x, y = np.meshgrid(line, line)
    block = (np.abs(x) < 0.02) & (np.abs(y) < 0.015)
    z = 0.65 - np.tan(np.radians(tilt_deg)) * y - 0.02 * block
    rng = np.random.default_rng(0)
    xyz = np.stack([x, y, z + rng.normal(0, 5e-5, z.shape)], axis=2).astype(np.float32)
    rgb = np.zeros((size, size, 3), np.uint8)
    return Scan(xyz, np.ones((size, size), bool), rgb, block & (x > 0.015)), block


SETS_OPTIONS = SynthOptions(seed=3, train=5, validation=2, good=2, per_defect=1, size=64)


@pytest.fixture(scope="session")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the generated raw data of every set; built once for all workers of a run."""
    root, sums = built_once(tmp_path_factory, "sets", generate_sets)
    yield root
    assert sums_of(root) == sums, "a test has changed the raw data that all tests share"


def generate_sets(root: Path) -> None:
    for name in photograph_sets():
        generate(name, root / name, ["gear"], SETS_OPTIONS, Silent())


@pytest.fixture
def copied(raws: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies a set's raw data without the mark of generated data, to be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(raws / name, tmp_path / "raw" / name)
        (tmp_path / "raw" / name / GENERATED).unlink()
        (tmp_path / "raw" / name / "generated.jsonl").unlink()
        return tmp_path / "raw" / name

    return copy
