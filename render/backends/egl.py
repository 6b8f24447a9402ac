"""OpenGL without a window: pyrender's renderer with shaders that write face numbers instead of colours.

One context and one renderer live as long as the rasteriser; a scan is uploaded once for all its views.
The face number alone comes back, exact, and everything else is computed from it as for ``cpu``: so the
depth has no depth-buffer error, and the two backends can differ only where an edge decides.

pyrender must reach EGL before open3d loads its own GL (its issue 302): this module is imported, and the
context made, before the first plane is estimated.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.errors import BadInput, MissingComponent
from mvad.render.rig import Rig
from mvad.render.surface import Surface

_SHADERS = Path(__file__).parent / "shaders"
_MAX_FACES = (1 << 24) - 2
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_REMEDY = "install libegl1 libgl1 libgles2 libgl1-mesa-dri, or take --backend cpu"


class EglRasteriser:
    """Rasterise on an EGL device: a GPU, or Mesa in software."""

    name = "egl"

    def __init__(self, device_index: int = 0) -> None:
        os.environ["PYOPENGL_PLATFORM"] = "egl"  # pyrender reads it at import and offers no argument
        try:
            from OpenGL.GL import GL_RENDERER, glGetString
            from pyrender.platforms import egl
        except Exception as error:  # PyOpenGL raises its own kinds when a library is missing
            raise MissingComponent(f"egl: pyrender cannot load EGL ({error}); {_REMEDY}") from error
        try:
            self._platform = egl.EGLPlatform(64, 64, device=egl.get_device_by_index(device_index))
            self._platform.init_context()
            self.device = glGetString(GL_RENDERER).decode()
        except Exception as error:  # a driver's refusal is an assertion, a GLError or a ctypes error
            reason = str(error) or type(error).__name__
            raise MissingComponent(f"egl: device {device_index} gives no context ({reason}); {_REMEDY}") from error
        self._renderer = _face_renderer()

    def visible_faces(self, surface: Surface, rig: Rig) -> NDArray[np.int32]:
        """See ``Rasteriser.visible_faces``."""
        from pyrender import IntrinsicsCamera, RenderFlags, Scene

        if len(surface.faces) > _MAX_FACES:
            raise BadInput(f"{len(surface.faces)} faces are more than egl can number; take --backend cpu")
        self._platform.make_current()
        scene = Scene()
        solid = len(surface.faces) - surface.bridges
        nodes = {scene.add(_mesh(surface.vertices, surface.faces[:solid])): (0, 0, 0)}
        with_bridges = dict(nodes)
        if surface.bridges:
            first = tuple(solid >> shift & 255 for shift in (0, 8, 16))
            with_bridges[scene.add(_mesh(surface.vertices, surface.faces[solid:]))] = first
        self._renderer.viewport_width = self._renderer.viewport_height = rig.size
        flags = RenderFlags.SEG | RenderFlags.OFFSCREEN
        faces = np.empty((rig.views, rig.size, rig.size), dtype=np.int32)
        for view in range(rig.views):
            k = rig.intrinsics[view]
            camera = IntrinsicsCamera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], rig.near_m * 0.5, rig.far_m * 2)
            node = scene.add(camera, pose=rig.poses[view] @ _FLIP)
            scene.main_camera_node = node
            shown = with_bridges if view == 0 else nodes
            picture, _ = self._renderer.render(scene, flags, seg_node_map=shown)
            number = picture.astype(np.int32)
            faces[view] = number[..., 0] + (number[..., 1] << 8) + (number[..., 2] << 16) - 1
            scene.remove_node(node)
        return faces

    def close(self) -> None:
        """Free the GL objects and the context."""
        self._platform.make_current()
        self._renderer.delete()
        self._platform.delete_context()


def _mesh(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> Any:
    from pyrender import Mesh, Primitive

    return Mesh([Primitive(positions=vertices, indices=faces.astype(np.uint32))])


def _face_renderer() -> Any:
    """Return pyrender's renderer with our shaders, drawing both sides of a face without blending.

    In its own SEG mode pyrender culls back faces whatever the material says; a surface seen from behind
    would be a hole, and the two backends would differ.
    """
    from OpenGL.GL import (
        GL_BLEND,
        GL_CULL_FACE,
        GL_FILL,
        GL_FRONT_AND_BACK,
        GL_UNSIGNED_INT,
        glDisable,
        glDrawElementsInstanced,
        glPolygonMode,
    )  # fmt: skip
    from pyrender import Renderer
    from pyrender.shader_program import ShaderProgramCache

    class FaceRenderer(Renderer):  # type: ignore[misc]  # pyrender has no types
        def __init__(self) -> None:
            super().__init__(64, 64)
            self._program_cache = ShaderProgramCache(str(_SHADERS))

        def _bind_and_draw_primitive(self, primitive: Any, pose: Any, program: Any, flags: int) -> None:
            program.set_uniform("M", pose)
            glDisable(GL_CULL_FACE)
            glDisable(GL_BLEND)
            glPolygonMode(GL_FRONT_AND_BACK, GL_FILL)
            primitive._bind()
            glDrawElementsInstanced(primitive.mode, primitive.indices.size, GL_UNSIGNED_INT, None, 1)
            primitive._unbind()

    return FaceRenderer()
