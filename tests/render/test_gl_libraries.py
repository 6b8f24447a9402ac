"""Libraries that OpenGL needs and a machine may lack, and PyOpenGL's version."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from command import MVAD, surroundings
from conftest import ROOT

from mvad.errors import MissingComponent
from mvad.pipeline import doctor
from mvad.render.backends import egl_report, gl_libraries


def hiding(*hidden: str) -> Callable[[str], object]:
    """Return a loader of libraries that lacks some, as the linker tells it: GLX needs X11, GL needs GLX."""
    needs = {"libGL.so.1": ["libGLX.so.0", "libX11.so.6"], "libGLX.so.0": ["libX11.so.6"]}

    def load(name: str) -> object:
        for wanted in [name, *needs.get(name, [])]:
            if wanted in hidden:
                raise OSError(f"{wanted}: cannot open shared object file: No such file or directory")
        return object()

    return load


@pytest.mark.parametrize(
    ("hidden", "packages"),
    [
        ([], None),
        (["libX11.so.6"], "libx11-6"),
        (["libGLX.so.0", "libX11.so.6"], "libglx0 libx11-6"),
        (["libGL.so.1"], "libgl1"),
    ],
)
def test_what_is_missing_is_named_with_its_package(hidden: list[str], packages: str | None) -> None:
    missing = gl_libraries.missing_libraries(hiding(*hidden))
    assert missing == hidden
    if packages:
        assert gl_libraries.remedy(missing) == (
            f"{', '.join(hidden)} cannot be loaded: apt-get install {packages}, or use --backend cpu"
        )


def test_looking_for_libraries_leaves_none_loaded() -> None:
    code = (
        "from mvad.render.backends.gl_libraries import missing_libraries\n"
        "maps = lambda: {line.split()[-1] for line in open('/proc/self/maps') if '.so' in line}\n"
        "before = maps()\nmissing_libraries()\n"
        "print([path for path in maps() - before if any(name in path for name in ('libEGL', 'libGL.', 'libGLX', 'libX11'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings())
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.egl
def test_gles_in_the_place_of_libgl_is_noticed_before_the_first_draw(
    fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import OpenGL.platform

    gles = type("Library", (), {"_name": "libGLESv2.so.2"})()
    monkeypatch.setattr(OpenGL.platform.PLATFORM, "GL", gles)
    monkeypatch.setattr(gl_libraries, "missing_libraries", lambda: ["libGLX.so.0", "libX11.so.6"])
    with pytest.raises(
        MissingComponent, match=r"loaded libGLESv2.so.2 instead of libGL.so.1; .* apt-get install libglx0 libx11-6,"
    ):
        fresh()


@pytest.fixture
def without_glx(tmp_path: Path, fresh: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this test's child processes find no usable libGLX."""
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "libGLX.so.0").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "libraries"))


@pytest.mark.thorough(6)
@pytest.mark.egl
@pytest.mark.usefixtures("without_glx")
def test_without_libglx_egl_is_exit_5_and_doctor_tells_the_package(workspace: Path, tmp_path: Path) -> None:
    command = [*MVAD, "render", "mvtec3d", "--raw", str(workspace / "raw" / "mvtec3d"), "--backend", "egl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=surroundings())
    assert done.returncode == 5
    assert re.fullmatch(
        r"mvad: egl: .*libGLX.so.0 cannot be loaded: apt-get install libglx0, or use --backend cpu", done.stderr.splitlines()[-1]
    )
    check = doctor._egl()
    assert check.state == "note", "rendering on cpu works, so that nothing needed is missing"
    assert "apt-get install libglx0, or use --backend cpu" in check.text


def test_the_versions_tried_together_are_those_that_pyrender_asks_for() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert egl_report.pyopengl_versions()[1] == pins["PyOpenGL"]
    assert any(re.match(r"PyOpenGL\W+" + re.escape(pins["PyOpenGL"]), line) for line in requires("pyrender") or [])


@pytest.mark.egl
@pytest.mark.parametrize("draws", [True, False])
def test_doctor_says_whether_another_pyopengl_matters(
    draws: bool, fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise MissingComponent("egl: no device can be drawn on")

    monkeypatch.setattr(egl_report, "pyopengl_versions", lambda: ("3.1.9", "3.1.0"))
    if not draws:
        monkeypatch.setattr(egl_report, "rasteriser", fails)
    state, text = egl_report.egl_report()
    assert state == ("ok" if draws else "note")
    assert text.endswith("does not matter here: the trial picture is right" if draws else "pip install PyOpenGL==3.1.0")
