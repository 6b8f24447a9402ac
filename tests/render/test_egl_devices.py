"""Which EGL device a process renders on, and that only what draws is accepted; the cards are listings, the draws Mesa's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import wavy_scan
from render_proofs import surface_and_rig

from mvad.errors import BadInput, MissingComponent
from mvad.progress import Silent
from mvad.render.backends import choose, devices, egl_report, gl_libraries
from mvad.render.backends.devices import Device, asked_device, candidates, hidden_card
from mvad.render.engine import Workers
from mvad.render.job import render_category
from mvad.render.options import RenderOptions, RigOptions

CARDS = [Device(number, f"/dev/dri/card{number}", nvidia=True, cuda=number, model="H100") for number in range(2)]
MESA = Device(2, software=True)
INTEGRATED = Device(3, "/dev/dri/card2", model="Iris")
OLDER = Device(4, "/dev/dri/card3", nvidia=True, cuda=2, model="T4")
MESA_AGAIN = Device(5, "/dev/dri/card0")


@pytest.mark.parametrize(
    ("listing", "worker", "expected"),
    [
        ([*CARDS, MESA], 0, [0, 1, 2]),
        ([*CARDS, MESA], 1, [1, 0, 2]),
        ([*CARDS, MESA], 2, [0, 1, 2]),
        ([MESA, *CARDS], 1, [1, 0, 2]),
        (CARDS[:1], 0, [0]),
        (CARDS[:1], 7, [0]),
        ([CARDS[0], MESA], 3, [0, 2]),
        ([MESA], 0, [2]),
        ([MESA], 5, [2]),
        ([INTEGRATED, *CARDS, MESA], 1, [1, 0, 3, 2]),
        ([*CARDS, OLDER], 2, [0, 1, 4]),
        ([*CARDS, MESA_AGAIN, MESA], 2, [0, 1, 5, 2]),
        ([INTEGRATED, Device(6, "/dev/dri/card5", model="Iris")], 1, [6, 3]),
    ],
)  # fmt: skip
def test_workers_take_turns_over_the_cards_that_are_alike(listing: list[Device], worker: int, expected: list[int]) -> None:
    assert [device.index for device in candidates(listing, None, worker)] == expected


def test_the_device_asked_for_is_the_only_one_whatever_the_worker() -> None:
    for worker in range(3):
        assert candidates([*CARDS, MESA], 1, worker) == [CARDS[1]]
    with pytest.raises(MissingComponent, match=r"no device 9; found 0: /dev/dri/card0 \(CUDA 0\), 1: .*, 2: software"):
        candidates([*CARDS, MESA], 9, 0)
    with pytest.raises(MissingComponent, match="no EGL device on this machine; install libegl1"):
        candidates([], None, 0)


def test_the_option_wins_over_the_variable_and_the_variable_over_the_turn() -> None:
    assert asked_device(0, {"EGL_DEVICE_ID": "1"}) == 0
    assert asked_device(None, {"EGL_DEVICE_ID": "1"}) == 1
    assert asked_device(None, {"EGL_DEVICE_ID": ""}) is asked_device(None, {}) is None
    with pytest.raises(BadInput, match="EGL_DEVICE_ID=first: not the number of an EGL device; give one that mvad doctor lists"):
        asked_device(None, {"EGL_DEVICE_ID": "first"})


def test_a_card_that_egl_does_not_list_is_told() -> None:
    assert "NVIDIA_DRIVER_CAPABILITIES=all" in hidden_card([MESA], ["/dev/nvidia3"])
    assert hidden_card([*CARDS, MESA], ["/dev/nvidia0", "/dev/nvidia1"]) == hidden_card([MESA], []) == ""


class Driver:
    """What pyrender's EGL module would be with two cards of NVIDIA's driver, the second of which hides its number, and Mesa."""

    strings = (
        {0x3055: b"EGL_NV_device_cuda EGL_EXT_device_drm EGL_EXT_device_query_name", 0x335F: b"H100"},
        {0x3055: b"EGL_NV_device_cuda"},
        {0x3055: b"EGL_MESA_device_software"},
    )

    def query_devices(self) -> list[SimpleNamespace]:
        files = ("/dev/dri/card0", "/dev/dri/card1", None)
        return [SimpleNamespace(_display=number, name=name) for number, name in enumerate(files)]

    def _eglQueryDeviceStringEXT(self, display: int, what: int) -> bytes | None:  # noqa: N802
        return self.strings[display].get(what)

    def _get_egl_func(self, name: str, result: type) -> Callable[..., bool]:
        def query(display: int, attribute: int, value: Any) -> bool:
            assert (name, attribute) == ("eglQueryDeviceAttribEXT", 0x323A)
            value._obj.value = 7
            return display == 0

        return query


def test_a_listing_says_what_the_driver_tells_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "load_platform", Driver)
    assert devices.list_devices() == [
        Device(0, "/dev/dri/card0", nvidia=True, cuda=7, model="H100"),
        Device(1, "/dev/dri/card1", nvidia=True),
        Device(2, software=True),
    ]


@pytest.mark.egl
def test_a_driver_without_cuda_numbers_is_asked_without_harm(fresh: Callable[[], Any]) -> None:
    platform = gl_libraries.load_platform()
    for device, found in zip(platform.query_devices(), devices.list_devices(), strict=True):
        if not found.nvidia:
            assert devices.cuda_number(platform, device) is None
    fresh().close()


@pytest.mark.egl
def test_the_variable_is_obeyed(fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGL_DEVICE_ID", "99")
    with pytest.raises(MissingComponent, match="no device 99"):
        fresh()
    choose.rasteriser("egl", device=0).close()


def nothing(*arguments: object) -> None:
    """Stand in for a call that a driver ignores."""


def misread(*arguments: Any, array: np.ndarray, **named: Any) -> None:
    array[...] = [[1, 1, 1, -7], [1, 1, -7, -7], [1, -1, -1, -7], [-1, -1, -1, 0]]


def refuses(*arguments: object) -> None:
    raise RuntimeError("GLError 1282\n  in glPolygonMode")


BROKEN: dict[str, tuple[str, Callable[..., None], str]] = {
    "one sample is misread": ("glReadPixels", misread, "1 of the 16 samples of a trial picture are wrong"),
    "nothing is drawn": ("glDrawElements", nothing, "10 of the 16 samples"),
    "the last corner provokes": ("glProvokingVertex", nothing, "of the 16 samples"),
    "the target is not cleared": ("glClearBufferiv", nothing, "of the 16 samples"),
    "there is no context": ("eglCreateContext", refuses, "GLError 1282"),
    "polygons cannot be filled": ("glPolygonMode", refuses, "GLError 1282 in glPolygonMode"),
}


@pytest.mark.egl
@pytest.mark.parametrize("broken", BROKEN)
def test_a_context_that_cannot_draw_is_refused_in_one_line_and_harms_no_other(
    broken: str, fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from OpenGL import EGL, GL

    surface, rig = surface_and_rig(wavy_scan(20), size=32)
    good = fresh()
    before = list(good._draw(surface, rig, 1))
    name, call, reason = BROKEN[broken]
    with monkeypatch.context() as patch:
        patch.setattr(EGL if name.startswith("egl") else GL, name, call)
        with pytest.raises(MissingComponent, match=f"^egl: no device can be drawn on .*{reason}.*or use --backend cpu$"):
            fresh()
    assert np.array_equal(before, list(good._draw(surface, rig, 1)))
    good.close()


@pytest.mark.egl
def test_a_context_that_culls_or_forgets_depth_is_refused(fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from OpenGL import GL

    disable, enable, function = GL.glDisable, GL.glEnable, GL.glDepthFunc
    for change in (
        {"glDisable": lambda what: enable(what) if what == GL.GL_CULL_FACE else disable(what)},
        {"glDepthFunc": lambda what: function(GL.GL_ALWAYS)},
    ):
        with monkeypatch.context() as patch:
            for name, call in change.items():
                patch.setattr(GL, name, call)
                patch.setattr(f"pyrender.renderer.{name}", call)
            with pytest.raises(MissingComponent, match="samples of a trial picture are wrong"):
                fresh()


@pytest.mark.egl
def test_where_there_is_one_device_the_number_of_the_worker_changes_nothing(fresh: Callable[[], Any]) -> None:
    from mvad.render.backends.egl import EglRasteriser

    surface, rig = surface_and_rig(wavy_scan(20), size=32)
    drawn = []
    for worker in (0, 5):
        egl = EglRasteriser(worker=worker)
        drawn.append((egl.device, np.array(list(egl._draw(surface, rig, 1)))))
        egl.close()
    assert drawn[0][0] == drawn[1][0]
    assert np.array_equal(drawn[0][1], drawn[1][1])


class Told(Silent):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.egl
def test_auto_takes_cpu_and_says_why_where_the_card_cannot_draw(
    fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, workspace: Path, tmp_path: Path
) -> None:
    from OpenGL import GL

    monkeypatch.setattr(choose, "nvidia_nodes", lambda: ["/dev/nvidia0"])
    told, options = Told(), RenderOptions(rig=RigOptions(size=64, views=1, measured=1, frame="sensor"))
    with monkeypatch.context() as patch:
        patch.setattr(GL, "glReadPixels", misread)
        raw = workspace / "raw" / "mvtec3d"
        done = render_category("mvtec3d", "gear", raw, tmp_path, options, ["validation"], Workers(), False, told)
    assert done.rendered
    assert (done.failed, '"name": "cpu"' in (done.folder / "manifest.json").read_text()) == (0, True)
    assert len(told.lines) == 1
    assert re.match(
        r"notice: --backend auto takes cpu, because .* 1 of the 16 samples of a trial picture are wrong", told.lines[0]
    )


@pytest.mark.egl
def test_auto_takes_cpu_and_says_that_egl_hides_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rasteriser that the process keeps: one that is dropped and not closed ends the display of all others."""
    lines: list[str] = []
    monkeypatch.setattr(choose, "nvidia_nodes", lambda: ["/dev/nvidia0"])
    try:
        kept: Any = choose.rasteriser("egl")
    except MissingComponent as error:
        pytest.skip(str(error))
    if not choose.is_software(kept.device):
        pytest.skip("needs a machine on which EGL has software alone")
    assert choose.resolve_backend("auto", say=lines.append) == "cpu"
    assert [("/dev/nvidia0" in line, "libnvidia-gl" in line) for line in lines] == [(True, True)]


class Drawn:
    """A rasteriser that passed over a card."""

    name, device, refused = "egl", "H100", ("device 0: /dev/dri/card0: trial",)


def test_a_device_that_was_passed_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from mvad.render import job

    told = Told()
    monkeypatch.setattr(job, "rasteriser", lambda name, device: Drawn())
    assert job._device(RenderOptions(backend="egl"), told) == "H100"
    assert told.lines == ["notice: egl renders on H100, because another cannot be rendered on: device 0: /dev/dri/card0: trial"]


@pytest.mark.egl
def test_doctor_notes_a_card_that_cannot_be_rendered_on(fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    state, text = egl_report.egl_report()
    assert (state, "found: --device 0: " in text) == ("ok", True)
    monkeypatch.setattr(egl_report, "rasteriser", lambda name: Drawn())
    state, text = egl_report.egl_report()
    assert (state, "device 0: /dev/dri/card0: trial" in text) == ("note", True)
