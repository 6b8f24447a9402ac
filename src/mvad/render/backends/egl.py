"""OpenGL without a window: pyrender's renderer with a framebuffer of vertex numbers instead of colours.

A scan is uploaded once, 12 bytes per vertex, for all its views. One pass per view writes, for each sample, the first corner
(a vertex number) of the face it sees; only that is read back, 4 bytes per sample. The face is then chosen among the few that
have this first corner, by the same rules as for ``cpu`` (``triangles.resolve``). Depth, normal, colour, mask and source are
computed from the face, so they have no depth-buffer error, and there is no second pass that could disagree.
Context, program and framebuffer live as long as the rasteriser; a scan's buffers are freed when the next scan is drawn.

pyrender must initialise EGL before open3d loads its own GL (pyrender issue 302): ``render.scan_to_views`` imports this
module and creates the context before the first plane is estimated.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.errors import MissingComponent
from mvad.render.backends.protocol import Finish, projected
from mvad.render.backends.triangles import faces_by_corner, resolve
from mvad.render.rig import Rig
from mvad.render.surface import Surface

_SHADERS = Path(__file__).parent / "shaders"
_REMEDY = "install libegl1 libgl1 libgles2 libgl1-mesa-dri, or use --backend cpu"
_EXTENSIONS = 0x3055
_SOFTWARE = "EGL_MESA_device_software"
_CLIP_MARGIN = 1.001
"""Factor by which the near and far clipping planes lie outside the mesh's range of depths."""


@dataclass(frozen=True)
class Device:
    """An EGL device: its number for ``--device``, its DRM file or "", and whether it is Mesa's software renderer."""

    index: int
    file: str
    software: bool

    def __str__(self) -> str:
        return f"{self.index}: {self.file or ('software' if self.software else 'no file')}"


def list_devices() -> list[Device]:
    """Enumerate the EGL devices of this machine.

    Raises
    ------
    MissingComponent
        If EGL cannot be loaded or does not enumerate.
    """
    platform = _load_platform()
    try:
        return [
            Device(index, device.name or "", _SOFTWARE in _extensions(platform, device))
            for index, device in enumerate(platform.query_devices())
        ]
    except Exception as error:  # ctypes, EGL and PyOpenGL raise exceptions of their own
        raise MissingComponent(f"egl: devices cannot be listed ({error}); {_REMEDY}") from error


class EglRasteriser:
    """Rasterise on an EGL device: a GPU, or Mesa in software.

    Without ``device_index`` the first hardware device that gives a context is used, else the first software device that does.

    Raises
    ------
    MissingComponent
        If EGL cannot be loaded, there is no such device, or no device gives a context.
    """

    name = "egl"

    def __init__(self, threads: int = 1, device_index: int | None = None) -> None:
        platform = _load_platform()
        devices = list_devices()
        if device_index is None:
            candidates = sorted(devices, key=lambda device: device.software)
        else:
            candidates = [device for device in devices if device.index == device_index]
        if not devices:
            raise MissingComponent(f"egl: no EGL device on this machine; {_REMEDY}")
        if not candidates:
            listed = ", ".join(map(str, devices))
            raise MissingComponent(f"egl: no device {device_index}; found {listed}. Give another --device, or --backend cpu")
        failures = []
        for device in candidates:
            try:
                self._platform = _context(platform, device)
                break
            except Exception as error:  # drivers fail with an AssertionError, a GLError or a ctypes error
                failures.append(f"device {device}: {error or type(error).__name__}")
        else:
            raise MissingComponent(f"egl: no context ({'; '.join(failures)}); {_REMEDY}")
        from OpenGL.GL import GL_RENDERER, glGetString

        self.device = glGetString(GL_RENDERER).decode()
        self._renderer = _corner_renderer()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._lock = threading.Lock()
        _release(self._platform)

    def views(self, surface: Surface, rig: Rig, samples: int, finish: Finish) -> None:
        """See ``Rasteriser.views``. Scans of several threads are drawn one after the other and finished in parallel."""
        offsets = faces_by_corner(surface.faces, len(surface.faces) - surface.bridges, len(surface.vertices))

        def finish_view(view: int, corner_at: NDArray[np.int32]) -> None:
            screen = projected(surface, rig, view, samples)
            finish(view, screen, resolve(corner_at, screen, surface.faces, offsets))

        if self._pool is None:
            for view, corner_at in enumerate(list(self._draw(surface, rig, samples))):
                finish_view(view, corner_at)
            return
        tasks = [
            self._pool.submit(finish_view, view, corner_at) for view, corner_at in enumerate(self._draw(surface, rig, samples))
        ]
        for task in tasks:
            task.result()

    def _draw(self, surface: Surface, rig: Rig, samples: int) -> Iterator[NDArray[np.int32]]:
        """Yield each view's first corners, (side, side) int32; the context is current in this thread until the last view."""
        from pyrender import Mesh, Primitive, Scene

        low, high = surface.vertices.min(axis=0).astype(np.float64), surface.vertices.max(axis=0).astype(np.float64)
        with self._lock:
            self._platform.make_current()
            try:
                scene = Scene()
                mesh = Mesh([Primitive(positions=surface.vertices, indices=surface.faces.view(np.uint32))])
                scene.add(mesh)
                self._renderer.viewport_width = self._renderer.viewport_height = rig.size * samples
                for pose, intrinsics in zip(rig.poses, rig.intrinsics, strict=True):
                    clip = _world_to_clip(pose, intrinsics, rig.size, low, high)
                    solid = len(surface.faces) - surface.bridges
                    bridges = surface.drawn_in(pose) - solid
                    yield self._renderer.corners_at(scene, mesh.primitives[0], solid, bridges, clip)
            finally:
                _release(self._platform)

    def close(self) -> None:
        """Free the GL objects and the context."""
        if self._pool is not None:
            self._pool.shutdown()
        from OpenGL.EGL import eglDestroyContext

        with self._lock:
            self._platform.make_current()
            self._renderer.delete()
            _release(self._platform)
            # Not pyrender's delete_context: it terminates the display, which other contexts of this process share.
            eglDestroyContext(self._platform._egl_display, self._platform._egl_context)


def _load_platform() -> Any:
    os.environ["PYOPENGL_PLATFORM"] = "egl"  # pyrender reads it at import and offers no argument
    try:
        from pyrender.platforms import egl
    except Exception as error:  # PyOpenGL raises exceptions of its own when a library is missing
        raise MissingComponent(f"egl: pyrender cannot load EGL ({error}); {_REMEDY}") from error
    return egl


def _extensions(platform: Any, device: Any) -> str:
    text = platform._eglQueryDeviceStringEXT(device._display, _EXTENSIONS)
    return (text or b"").decode("ascii", "replace")


def _context(platform: Any, device: Device) -> Any:
    egl_platform = platform.EGLPlatform(64, 64, device=platform.get_device_by_index(device.index))
    egl_platform.init_context()
    return egl_platform


def _release(platform: Any) -> None:
    """Release the context from this thread, so that another can make it current; pyrender has no call for this."""
    from OpenGL.EGL import EGL_NO_CONTEXT, EGL_NO_SURFACE, eglMakeCurrent

    eglMakeCurrent(platform._egl_display, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT)


def _world_to_clip(
    pose: NDArray[np.float64], intrinsics: NDArray[np.float64], size: int, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the (4, 4) float32 matrix from the sensor's frame to clip space, row 0 of the image first.

    The near and far planes enclose the mesh's bounding box, so that depth is resolved as finely as 32 bits allow.
    """
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, 3)
    depths = (corners - pose[:3, 3]) @ pose[:3, 2]
    far = max(depths.max() * _CLIP_MARGIN, 1e-6)
    near = max(depths.min() / _CLIP_MARGIN, far * 1e-4)
    clip = np.array([
        [2 * intrinsics[0, 0] / size, 0, 2 * intrinsics[0, 2] / size - 1, 0],
        [0, 2 * intrinsics[1, 1] / size, 2 * intrinsics[1, 2] / size - 1, 0],
        [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
        [0, 0, 1, 0],
    ])  # fmt: skip
    return np.asarray(clip @ np.linalg.inv(pose), dtype=np.float32)


# Over 60 lines: the class can only be defined after pyrender, which has its base class, was imported for EGL.
def _corner_renderer() -> Any:
    """Return pyrender's renderer with a framebuffer of first corners, both sides of a face drawn, no blending.

    pyrender's own renderer multisamples, rounds depth to 24 bits, and in its SEG mode culls back faces whatever the material
    says: a surface seen from behind would be a hole, and the two backends would differ.
    """
    from OpenGL import GL
    from pyrender import Renderer, RenderFlags
    from pyrender.shader_program import ShaderProgramCache

    flags = RenderFlags.SEG | RenderFlags.OFFSCREEN

    class CornerRenderer(Renderer):  # type: ignore[misc]  # pyrender has no types
        def __init__(self) -> None:
            super().__init__(64, 64)
            self._main_fb_dims: tuple[int | None, int | None] = (None, None)
            self._program_cache = ShaderProgramCache(str(_SHADERS))

        def _configure_main_framebuffer(self) -> None:
            dims = (self.viewport_width, self.viewport_height)
            if self._main_fb_dims == dims:
                return
            self._delete_main_framebuffer()
            self._main_cb, self._main_db = GL.glGenRenderbuffers(2)
            self._main_fb = self._main_fb_ms = GL.glGenFramebuffers(1)
            GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, self._main_fb)
            for buffer, kind, attachment in (
                (self._main_cb, GL.GL_R32I, GL.GL_COLOR_ATTACHMENT0),
                (self._main_db, GL.GL_DEPTH_COMPONENT32F, GL.GL_DEPTH_ATTACHMENT),
            ):
                GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, buffer)
                GL.glRenderbufferStorage(GL.GL_RENDERBUFFER, kind, *dims)
                GL.glFramebufferRenderbuffer(GL.GL_FRAMEBUFFER, attachment, GL.GL_RENDERBUFFER, buffer)
            if GL.glCheckFramebufferStatus(GL.GL_FRAMEBUFFER) != GL.GL_FRAMEBUFFER_COMPLETE:
                raise MissingComponent(f"egl: this driver has no integer framebuffer of {dims[0]} x {dims[1]}; use --backend cpu")
            self._main_fb_dims = dims

        def _delete_main_framebuffer(self) -> None:
            if self._main_fb is not None:
                GL.glDeleteFramebuffers(1, [self._main_fb])
                GL.glDeleteRenderbuffers(2, [self._main_cb, self._main_db])
            self._main_fb = self._main_fb_ms = self._main_cb = self._main_db = None
            self._main_fb_dims = (None, None)

        def corners_at(
            self, scene: Any, primitive: Any, solid: int, bridges: int, clip: NDArray[np.float32]
        ) -> NDArray[np.int32]:
            """Draw faces and bridges and return their first corners; pyrender uploads the scene and frees the previous one."""
            self._update_context(scene, flags)
            self._configure_forward_pass_viewport(flags)
            GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, self._main_fb)
            GL.glDisable(GL.GL_MULTISAMPLE)
            GL.glDisable(GL.GL_CULL_FACE)
            GL.glDisable(GL.GL_BLEND)
            GL.glPolygonMode(GL.GL_FRONT_AND_BACK, GL.GL_FILL)
            GL.glClearBufferiv(GL.GL_COLOR, 0, np.full(4, -1, dtype=np.int32))
            GL.glClearBufferfv(GL.GL_DEPTH, 0, np.ones(1, dtype=np.float32))
            program = self._program_cache.get_program("corners.vert", "corners.frag", defines={"INST_M_LOC": 1})
            if not program._in_context():
                program._add_to_context()
            program._bind()
            program.set_uniform("world_to_clip", clip)
            primitive._bind()
            GL.glProvokingVertex(GL.GL_FIRST_VERTEX_CONVENTION)
            for first, count in ((0, solid), (solid, bridges)):
                if count:
                    program.set_uniform("bridge", int(first > 0))
                    GL.glDrawElements(primitive.mode, 3 * count, GL.GL_UNSIGNED_INT, ctypes.c_void_p(12 * first))
            primitive._unbind()
            program._unbind()
            corner_at = np.empty((self.viewport_height, self.viewport_width), dtype=np.int32)
            GL.glPixelStorei(GL.GL_PACK_ALIGNMENT, 4)
            GL.glReadPixels(0, 0, self.viewport_width, self.viewport_height, GL.GL_RED_INTEGER, GL.GL_INT, array=corner_at)
            return corner_at

    return CornerRenderer()
