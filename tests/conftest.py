"""The one fixture module: generated data once a session, real data where MVAD_REAL_DATA says."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from training import train

from mvad.datasets.scan import Scan
from mvad.datasets.shards.pack import PackOptions, pack_realiad, pack_renders
from mvad.datasets.synth.generate import SynthOptions, generate
from mvad.errors import MissingComponent
from mvad.progress import Silent
from mvad.render.backends.choose import BACKENDS, rasteriser
from mvad.render.backends.protocol import Rasteriser
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

SMALL = SynthOptions(seed=3, train=4, validation=1, good=2, per_defect=1, size=160)
os.environ["MVAD_OFFLINE"] = "1"  # no test asks the network, nor does a command that a test starts

ROOT = Path(__file__).parents[1]
CATEGORY = {"mvtec3d": "gear", "eyecandies": "dome", "realiad": "plate"}
VIEW = 64


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
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated raw data of the three datasets, rendered and packed, all very small."""
    root = tmp_path_factory.mktemp("workspace")
    for dataset, category in CATEGORY.items():
        generate(dataset, root / "raw" / dataset, [category], SMALL, Silent())
    for dataset in ("mvtec3d", "eyecandies"):
        render_category(
            dataset, CATEGORY[dataset], root / "raw" / dataset, root / "renders", small_options(),
            ("train", "validation", "test"), Workers(), False, Silent(),
        )  # fmt: skip
        pack_renders(root / "renders", dataset, CATEGORY[dataset], root / "shards", PackOptions(), Silent())
    pack_realiad(root / "raw" / "realiad", CATEGORY["realiad"], root / "shards", PackOptions(size=VIEW), Silent())
    return root


@pytest.fixture(scope="session")
def trained(workspace: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, str], Path]:
    """Return what gives the tiny run of a method on a dataset, trained once per run of pytest; copy it before changing it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "trained"
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
