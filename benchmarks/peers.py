"""Other implementations to compare with: naive and tuned pyrender, raw moderngl, ray casters, the published cleaning.

Each renderer takes a surface and a rig and returns rgb, depth and label of all views, as far as it can. Only moderngl, whose
attachments can be chosen, also gives the scan's pixel for each pixel of a view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvad.render.rig import Rig
from mvad.render.surface import Surface

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Seen:
    """What a peer returns: rgb (V, H, W, 3) uint8, depth (V, H, W) metres, label (V, H, W) uint8; None if it cannot."""

    rgb: NDArray[Any] | None = None
    depth: NDArray[Any] | None = None
    label: NDArray[Any] | None = None


def solid_faces(surface: Surface) -> NDArray[np.int32]:
    return surface.faces[: len(surface.faces) - surface.bridges]


def _pyrender_mesh(surface: Surface, colors: NDArray[np.uint8]) -> Any:
    import pyrender

    alpha = np.full((len(colors), 1), 255, np.uint8)
    return pyrender.Mesh([pyrender.Primitive(
        positions=surface.vertices, indices=solid_faces(surface).astype(np.uint32),
        color_0=np.concatenate([colors, alpha], axis=1) / np.float32(255),
    )])  # fmt: skip


def _pyrender_camera(rig: Rig, view: int) -> tuple[Any, NDArray[np.float64]]:
    import pyrender

    k = rig.intrinsics[view]
    camera = pyrender.IntrinsicsCamera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], rig.near_m * 0.5, rig.far_m * 2)
    return camera, rig.poses[view] @ FLIP


def naive_pyrender(surface: Surface, gt: NDArray[np.bool_], rig: Rig, bare: bool = False, process: bool = True) -> Seen:
    """Make a renderer and a mesh per pass, one pass for RGB and one for the mask, as pyrender's examples and published code do."""
    import pyrender
    import trimesh

    painted = np.repeat(gt.reshape(-1)[surface.source][:, None], 3, axis=1).astype(np.uint8) * 255
    rgb, depth, label = [], [], []
    for view in range(rig.views):
        for colors in (surface.colors, painted):
            renderer = pyrender.OffscreenRenderer(rig.size, rig.size)
            scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=[1.0, 1.0, 1.0])
            if bare:
                scene.add(_pyrender_mesh(surface, colors))
            else:
                mesh = trimesh.Trimesh(surface.vertices, solid_faces(surface), vertex_colors=colors, process=process)
                scene.add(pyrender.Mesh.from_trimesh(mesh))
            camera, pose = _pyrender_camera(rig, view)
            scene.add(camera, pose=pose)
            picture, metres = renderer.render(scene, flags=pyrender.RenderFlags.FLAT | pyrender.RenderFlags.SKIP_CULL_FACES)
            renderer.delete()
            if colors is painted:
                label.append(picture[..., 0])
            else:
                rgb.append(picture)
                depth.append(metres)
    return Seen(np.stack(rgb), np.stack(depth), np.stack(label))


class TunedPyrender:
    """One renderer, one upload, three passes per view: RGB with depth, mask, normals as colours."""

    def __init__(self, size: int) -> None:
        import pyrender

        self.renderer = pyrender.OffscreenRenderer(size, size)

    def __call__(self, surface: Surface, gt: NDArray[np.bool_], rig: Rig) -> Seen:
        import pyrender

        painted = np.repeat(gt.reshape(-1)[surface.source][:, None], 3, axis=1).astype(np.uint8) * 255
        turned = ((surface.normals + 1) * 127.5).astype(np.uint8)
        scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=[1.0, 1.0, 1.0])
        meshes = [_pyrender_mesh(surface, colors) for colors in (surface.colors, painted, turned)]
        for mesh in meshes:
            scene.add(mesh)
        flags = pyrender.RenderFlags.FLAT | pyrender.RenderFlags.SKIP_CULL_FACES
        rgb, depth, label = [], [], []
        for view in range(rig.views):
            camera, pose = _pyrender_camera(rig, view)
            node = scene.add(camera, pose=pose)
            pictures = []
            for shown in meshes:
                for mesh in meshes:
                    mesh.is_visible = mesh is shown
                pictures.append(self.renderer.render(scene, flags=flags))
            rgb.append(pictures[0][0])
            depth.append(pictures[0][1])
            label.append(pictures[1][0][..., 0])
            scene.remove_node(node)
        return Seen(np.stack(rgb), np.stack(depth), np.stack(label))

    def close(self) -> None:
        self.renderer.delete()


class Moderngl:
    """Lower bound of OpenGL: one upload, one pass per view, five attachments read back and not processed."""

    def __init__(self, side: int) -> None:
        import moderngl

        self.context = moderngl.create_standalone_context(backend="egl")
        self.device = self.context.info["GL_RENDERER"]
        self.program = self.context.program(
            vertex_shader="""#version 330 core
            in vec3 position; in vec3 normal; in vec4 color; in int source;
            uniform mat4 clip; uniform mat4 view;
            out vec3 to_normal; out vec3 to_color; out float to_depth; flat out int to_label; flat out int to_source;
            void main() { gl_Position = clip * vec4(position, 1.0); to_normal = mat3(view) * normal; to_color = color.rgb;
                          to_depth = (view * vec4(position, 1.0)).z; to_label = int(color.a * 255.0 + 0.5); to_source = source; }""",
            fragment_shader="""#version 330 core
            in vec3 to_normal; in vec3 to_color; in float to_depth; flat in int to_label; flat in int to_source;
            layout(location=0) out vec4 rgb; layout(location=1) out int label; layout(location=2) out vec4 normal;
            layout(location=3) out float depth; layout(location=4) out int source;
            void main() { rgb = vec4(to_color, 1.0); label = to_label; normal = vec4(normalize(to_normal), 0.0);
                          depth = to_depth; source = to_source; }""",
        )
        attachments = [
            self.context.renderbuffer((side, side), 4),
            self.context.renderbuffer((side, side), 1, dtype="i1"),
            self.context.renderbuffer((side, side), 4, dtype="f2"),
            self.context.renderbuffer((side, side), 1, dtype="f4"),
            self.context.renderbuffer((side, side), 1, dtype="i4"),
        ]
        self.frame = self.context.framebuffer(attachments, self.context.depth_renderbuffer((side, side)))
        self.side = side

    def __call__(self, surface: Surface, gt: NDArray[np.bool_], rig: Rig) -> Seen:
        from mvad.render.backends.egl import _world_to_clip

        vertex = np.zeros(len(surface.vertices), dtype=[("p", "3f4"), ("n", "3f4"), ("c", "4u1"), ("s", "i4")])
        vertex["p"], vertex["n"], vertex["s"] = surface.vertices, surface.normals, surface.source
        vertex["c"][:, :3], vertex["c"][:, 3] = surface.colors, gt.reshape(-1)[surface.source]
        buffer, index = self.context.buffer(vertex), self.context.buffer(solid_faces(surface))
        layout = (buffer, "3f4 3f4 4f1 1i4", "position", "normal", "color", "source")
        array = self.context.vertex_array(self.program, [layout], index)
        self.context.enable_only(1 << 1)  # depth test
        low, high = surface.vertices.min(axis=0).astype(float), surface.vertices.max(axis=0).astype(float)
        rgb, depth, label = [], [], []
        for pose, intrinsics in zip(rig.poses, rig.intrinsics, strict=True):
            self.frame.use()
            self.frame.clear()
            clip = _world_to_clip(pose, intrinsics, rig.size, low, high)
            self.program["clip"].write(np.ascontiguousarray(clip.T))
            self.program["view"].write(np.ascontiguousarray(np.linalg.inv(pose).T.astype(np.float32)))
            array.render()
            read = [self.frame.read(components=n, attachment=k, dtype=t) for k, (n, t) in enumerate(
                ((3, "f1"), (1, "i1"), (3, "f2"), (1, "f4"), (1, "i4")))]  # fmt: skip
            rgb.append(np.frombuffer(read[0], np.uint8).reshape(self.side, self.side, 3))
            label.append(np.frombuffer(read[1], np.uint8).reshape(self.side, self.side))
            depth.append(np.frombuffer(read[3], np.float32).reshape(self.side, self.side))
        for held in (array, buffer, index):
            held.release()
        return Seen(np.stack(rgb), np.stack(depth), np.stack(label))

    def close(self) -> None:
        self.context.release()


def rays(rig: Rig, view: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a view's origin (3,) and the directions (H * W, 3) through its pixels' centres, depth 1 along the axis."""
    k, at = rig.intrinsics[view], np.arange(rig.size) + 0.5
    x, y = np.meshgrid((at - k[0, 2]) / k[0, 0], (at - k[1, 2]) / k[1, 1])
    directions = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ rig.poses[view, :3, :3].T
    return rig.poses[view, :3, 3], directions


def open3d_rays(surface: Surface, gt: NDArray[np.bool_], rig: Rig) -> Seen:
    """Open3D's ray casting scene, which uses embree; all views, depth only."""
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(surface.vertices, solid_faces(surface).astype(np.uint32))
    depth = []
    for view in range(rig.views):
        origin, directions = rays(rig, view)
        beams = np.concatenate([np.tile(origin, (len(directions), 1)), directions], axis=1).astype(np.float32)
        hit = scene.cast_rays(open3d.core.Tensor(beams))["t_hit"].numpy()
        depth.append(np.where(np.isfinite(hit), hit, 0).reshape(rig.size, rig.size))
    return Seen(depth=np.stack(depth))


def embree_rays(surface: Surface, gt: NDArray[np.bool_], rig: Rig) -> Seen:
    """The reference of the tests: trimesh with embreex."""
    import trimesh

    mesh = trimesh.Trimesh(surface.vertices.astype(np.float64), solid_faces(surface), process=False)
    depth = np.zeros((rig.views, rig.size * rig.size))
    for view in range(rig.views):
        origin, directions = rays(rig, view)
        points, hit, _ = mesh.ray.intersects_location(np.tile(origin, (len(directions), 1)), directions, multiple_hits=False)
        depth[view, hit] = (points - origin) @ rig.poses[view, :3, 2]
    return Seen(depth=depth.reshape(rig.views, rig.size, rig.size))


def published_cleaning(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The procedure of 3D-ADS, M3DM and later work, without overwriting the dataset: which points are kept, (H, W) bool.

    A plane is fitted to the image's frame of 10 pixels (RANSAC with 50 points, 1,000 iterations, 4 mm), points within 5 mm of
    it are removed, and the largest cluster of DBSCAN (6 mm, 30 points) is kept.
    """
    import open3d

    organised = xyz.copy()
    edge = np.ones(organised.shape[:2], bool)
    edge[10:-10, 10:-10] = False
    frame = organised[edge]
    frame = frame[(frame != 0).any(axis=1)]
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(frame.astype(np.float64)))
    plane, _ = cloud.segment_plane(distance_threshold=0.004, ransac_n=50, num_iterations=1000)
    distance = np.abs(organised @ np.asarray(plane[:3]) + plane[3])
    organised[distance < 0.005] = 0
    at = np.flatnonzero((organised.reshape(-1, 3) != 0).any(axis=1))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(organised.reshape(-1, 3)[at].astype(np.float64)))
    labels = np.asarray(cloud.cluster_dbscan(eps=0.006, min_points=30, print_progress=False))
    keep = np.zeros(organised.shape[0] * organised.shape[1], bool)
    if (labels >= 0).any():
        keep[at[labels == np.bincount(labels[labels >= 0]).argmax()]] = True
    return keep.reshape(organised.shape[:2])


PEERS: dict[str, Callable[[Surface, NDArray[np.bool_], Rig], Seen]] = {
    "naive pyrender": naive_pyrender, "Open3D ray casting": open3d_rays, "embree (trimesh)": embree_rays,
}  # fmt: skip
