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

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.errors import MissingComponent
from mvad.render.backends.devices import Device, candidates, list_devices
from mvad.render.backends.gl_libraries import REMEDY, load_platform, one_line
from mvad.render.backends.protocol import Finish, projected
from mvad.render.backends.trial import try_picture
from mvad.render.backends.triangles import faces_by_corner, resolve
from mvad.render.rig import Rig
from mvad.render.surface import Surface

_SHADERS = Path(__file__).parent / "shaders"
_CLIP_MARGIN = 1.001
"""Factor by which the near and far clipping planes lie outside the mesh's range of depths."""


class EglRasteriser:
    """Rasterise on an EGL device: a GPU, or Mesa in software.

    A device is accepted if its context draws the trial picture (``trial``). Without ``device_index`` the first such device of
    ``devices.candidates`` is used: a hardware device where there is one, of several cards the one whose turn it is for the
    worker process of number ``worker``.

    Raises
    ------
    MissingComponent
        If EGL or libGL cannot be loaded, there is no such device, or no device draws.
    """

    name = "egl"

    def __init__(self, threads: int = 1, device_index: int | None = None, worker: int = 0) -> None:
        platform = load_platform()
        refused = []
        for device in candidates(list_devices(), device_index, worker):
            try:
                self._platform, self._renderer, self.device = _opened(platform, device)
                break
            except Exception as error:  # drivers fail with an AssertionError, a GLError or a ctypes error
                refused.append(f"device {device}: {one_line(error)}")
        else:
            raise MissingComponent(f"egl: no device can be drawn on ({'; '.join(refused)}); {REMEDY}")
        self.refused = tuple(refused)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._lock = threading.Lock()
        _release(self._platform._egl_display)

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
                _release(self._platform._egl_display)

    def close(self) -> None:
        """Free the GL objects and the context."""
        if self._pool is not None:
            self._pool.shutdown()
        with self._lock:
            self._platform.make_current()
            self._renderer.delete()
            _destroy(self._platform)


def _opened(platform: Any, device: Device) -> tuple[Any, Any, str]:
    """Return a device's context, which is current, its renderer and the name of what renders; it has drawn the trial picture."""
    context = platform.EGLPlatform(64, 64, device=platform.get_device_by_index(device.index))
    renderer: Any = None
    try:
        context.init_context()
        from OpenGL.GL import GL_RENDERER, glGetString

        name = glGetString(GL_RENDERER).decode()
        renderer = _corner_renderer()
        try_picture(renderer)
        return context, renderer, name
    except Exception:
        with contextlib.suppress(Exception):
            renderer.delete()  # now, because later it would delete what another context has under the same names
        with contextlib.suppress(Exception):
            _destroy(context)
        raise


def _destroy(context: Any) -> None:
    """Release a context and destroy it.

    Not by pyrender's delete_context, which its destructor calls, too: it terminates the display, which other contexts of this
    process share.
    """
    from OpenGL.EGL import eglDestroyContext

    display, context._egl_display = context._egl_display, None
    _release(display)
    eglDestroyContext(display, context._egl_context)


def _release(display: Any) -> None:
    """Release a display's context from this thread, so that another can make it current; pyrender has no call for this."""
    from OpenGL.EGL import EGL_NO_CONTEXT, EGL_NO_SURFACE, eglMakeCurrent

    eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT)


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
