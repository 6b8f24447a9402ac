"""The object's frame: turns of generated parts are known, so the pose that is found can be compared with the truth."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from mvad.datasets.scan import NO_POSE, Scan
from mvad.datasets.synth import mvtec3d
from mvad.datasets.synth.plan import PlannedSample, plan
from mvad.datasets.synth.shapes import SHAPES, Grid
from mvad.errors import BadInput
from mvad.render.cameras import fit_cameras, in_frame, stand_before
from mvad.render.clean import clean
from mvad.render.frame.fit import fit_frame
from mvad.render.frame.object_frame import ObjectFrame, ObjectPose
from mvad.render.frame.points import ScanPoints, scan_points, without_shading
from mvad.render.frame.template import Placement, Template, place
from mvad.render.options import CleanOptions, RenderOptions, RigOptions, SurfaceOptions
from mvad.render.rig import Rig
from mvad.render.scan_to_views import measured_scan, views_of_scan
from mvad.render.surface import build_surface

GREY = (0.5, 0.5, 0.5)
SIZE = 160


def box(x: Grid, y: Grid, half_x: float, half_y: float) -> Grid:
    return np.asarray(np.clip(0.5 - np.maximum(np.abs(x) - half_x, np.abs(y) - half_y) / 0.001, 0, 1))


def hook(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    return 0.008 * np.maximum(box(x + 0.008, y, 0.006, 0.022), box(x, y + 0.016, 0.014, 0.006)), 0 * x, GREY


def boss(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    """A square that only a boss near one corner turns."""
    return 0.006 * box(x, y, 0.018, 0.018) + 0.004 * (np.hypot(x - 0.011, y - 0.011) < 0.004), 0 * x, GREY


def print_(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    """A square that only a printed spot turns."""
    return 0.006 * box(x, y, 0.018, 0.018), -1.0 * (np.hypot(x - 0.010, y - 0.010) < 0.005), GREY


def ring(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    """A ring with a groove on one side."""
    r = np.hypot(x, y)
    inside = (r < 0.022) & (r > 0.010)
    return 0.007 * inside - 0.004 * (inside & (np.abs(y) < 0.003) & (x > 0)), 0 * x, GREY


def disc(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    return 0.007 * np.clip((0.022 - np.hypot(x, y)) / 0.001, 0, 1), 0 * x, GREY


def letter(x: Grid, y: Grid) -> tuple[Grid, Grid, tuple[float, float, float]]:
    """A hook with a letter, of which no mirror image exists; where it is cut, the hook's mirror image has another letter."""
    height, _, colour = hook(x, y)
    return height, -1.0 * (box(x + 0.008, y - 0.006, 0.0045, 0.007) > 0) * (np.sin(x / 0.0009) > 0), colour


PARTS: dict[str, Callable[[Grid, Grid], tuple[Grid, Grid, tuple[float, float, float]]]] = {
    "hook": hook, "boss": boss, "print": print_, "ring": ring, "disc": disc, "letter": letter,
}  # fmt: skip


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in PARTS.items():
        monkeypatch.setitem(SHAPES, name, shape)


@dataclass(frozen=True)
class Shown:
    """A generated scan with its plan, its points and its object."""

    planned: PlannedSample
    scan: Scan
    points: ScanPoints

    @property
    def turn_deg(self) -> float:
        return 360 * self.planned.variation.angle


def shown(planned: PlannedSample, change: Callable[[Scan], Scan] = lambda scan: scan) -> Shown:
    scan = change(mvtec3d.scan_of(planned, SIZE))
    return Shown(planned, scan, scan_points(scan, clean(scan, CleanOptions())))


@cache
def category(name: str, train: int = 12, defects: int = 2, seed: int = 3) -> tuple[list[Shown], list[Shown]]:
    """Return training scans, and test scans of which most are defective; in both the turns are spread evenly."""
    planned = plan(name, seed, train, 0, 6, defects, mvtec3d.DEFECTS)
    return tuple([shown(p) for p in planned if (p.split == "train") == is_train] for is_train in (True, False))  # type: ignore[return-value]


def frame_of(scans: list[Shown], mirror: bool = True) -> ObjectFrame:
    return fit_frame([scan.points for scan in scans], mirror=mirror)


def errors(frame: ObjectFrame, train: list[Shown], test: list[Shown], order: int = 1) -> NDArray[np.float64]:
    """Return the errors of test turns, degrees: against the mean difference of training turns from the truth."""

    def off(scans: list[Shown]) -> NDArray[np.complex128]:
        found = np.array([frame.pose_of(scan.points).turn_deg for scan in scans])
        return np.asarray(np.exp(1j * order * np.radians(found - [scan.turn_deg for scan in scans])))

    return np.asarray(np.abs(np.degrees(np.angle(off(test) / off(train).mean()))) / order)


@pytest.mark.thorough(6)
@pytest.mark.parametrize(("name", "order"), [("hook", 1), ("boss", 1), ("print", 1), ("ring", 1), ("plate", 2)])
def test_known_turns_are_found_under_noise_holes_and_defects(name: str, order: int, tell: Callable[[str], None]) -> None:
    train, test = category(name)
    frame = frame_of(train)
    assert len(frame.poses) == 1
    assert not frame.mirrored
    assert frame.poses[0].order in (1, order)
    off = errors(frame, train, test, order)
    tell(
        f"{name}: error of the turn {np.median(off):.2f} deg in the median, {np.quantile(off, 0.95):.2f} at 95 %, {off.max():.1f} at most"
    )
    assert np.median(off) <= 0.5
    assert np.quantile(off, 0.95) <= 2
    assert off.max() < 10, "no half or quarter turn"
    assert min(frame.pose_of(scan.points).fit or 0 for scan in train) > 0.8


@pytest.mark.thorough(6)
def test_a_disc_has_no_turn() -> None:
    train, test = category("disc")
    frame = frame_of(train)
    assert [pose.order for pose in frame.poses] == [0]
    poses = [frame.pose_of(scan.points) for scan in test]
    assert {pose.turn_deg for pose in poses} == {0.0}
    assert {pose.number for pose in poses} == {0}


@pytest.mark.thorough(3)
def test_the_centre_does_not_move_with_the_outline() -> None:
    """A scan whose object's tip is gone lies where it lay: the template holds it, not the bounding box."""
    train, test = category("hook")
    frame = frame_of(train)

    def without_tip(scan: Scan) -> Scan:
        cleaned = clean(scan, CleanOptions())
        inside = in_frame(scan.xyz.reshape(-1, 3), frame.pose_of(scan_points(scan, cleaned))).reshape(scan.xyz.shape)
        gone = cleaned.keep & (inside[..., 0] > np.quantile(inside[cleaned.keep, 0], 0.8))
        return replace(scan, xyz=np.where(gone[..., None], np.float32(0), scan.xyz), valid=scan.valid & ~gone)

    for number in (0, 3):
        whole, cut = test[number], shown(test[number].planned, without_tip)
        before, after = (frame.pose_of(one.points) for one in (whole, cut))
        moved = in_frame(np.linalg.inv(before.matrix)[None, :3, 3], after)
        assert np.abs(moved[0, :2]).max() < 0.0005
        assert abs(before.turn_deg - after.turn_deg) < 1


def mirrored(scan: Scan) -> Scan:
    """Return the scan of the mirrored object, as another sensor would give it: x negated, columns reversed."""
    xyz, valid, rgb = (np.ascontiguousarray(planes[:, ::-1]) for planes in (scan.xyz, scan.valid, scan.rgb))
    xyz[..., 0] *= -1
    return Scan(xyz, valid, rgb, None if scan.gt is None else np.ascontiguousarray(scan.gt[:, ::-1]))


@pytest.mark.thorough(6)
def test_mirror_images_are_one_pose_drawn_mirrored() -> None:
    train, test = category("hook")
    mixed = [shown(scan.planned, mirrored) if number % 2 else scan for number, scan in enumerate(train)]
    frame = frame_of(mixed)
    assert len(frame.poses) == 1
    assert frame.mirrored
    assert frame.count == 2
    numbers = [frame.pose_of(scan.points).number for scan in mixed]
    assert len({(number, k % 2) for k, number in enumerate(numbers)}) == 2, "left and right are told apart"
    for scan in test[:4]:
        one, other = frame.pose_of(scan.points), frame.pose_of(shown(scan.planned, mirrored).points)
        assert {one.number, other.number} == {0, 1}
        assert one.mirrored != other.mirrored
    apart = frame_of(mixed, mirror=False)
    assert (len(apart.poses), apart.mirrored) == (2, False)


@pytest.mark.thorough(3)
def test_a_part_that_is_its_own_mirror_image_is_not_drawn_mirrored() -> None:
    train, _ = category("boss")
    mixed = [shown(scan.planned, mirrored) if number % 2 else scan for number, scan in enumerate(train)]
    assert not frame_of(mixed).mirrored


def test_one_training_scan_makes_no_template() -> None:
    train, test = category("hook")
    frame = frame_of(train[:1])
    assert frame.poses == ()
    assert "one training scan" in frame.note
    pose = frame.pose_of(test[0].points)
    assert (pose.turn_deg, pose.number, pose.fit) == (0.0, 0, None)
    kept = test[0].scan.xyz[clean(test[0].scan, CleanOptions()).keep]
    assert np.abs(in_frame(kept, pose).mean(axis=0)).max() < 0.004, "its own middle is the origin"
    rig = rig_of(train[:1])
    done = views_of_scan(test[0].scan, RenderOptions(backend="cpu", rig=RigOptions(size=128)), rig)
    assert (done.views.source[0] >= 0).mean() > 0.05


@pytest.mark.thorough(6)
def test_scans_without_a_common_template_are_not_turned() -> None:
    strange = [category(name)[0][number] for number, name in enumerate(("hook", "disc", "gear", "ring", "plate"))]
    frame = frame_of(strange)
    assert [pose.order for pose in frame.poses] in ([], [0]), "round ones among them may share an outline, never a turn"
    assert {frame.pose_of(scan.points).turn_deg for scan in strange} == {0.0}
    apart = frame_of([category("hook")[0][0], category("disc")[0][0]])
    assert apart.poses == ()
    assert "no common template" in apart.note


def bar(width: int) -> Scan:
    """Return a scan of a bar of some points across and many along, on a plane 0.6 m away: too narrow for normals if under 5."""
    side, step = 128, 0.0003
    rows, columns = np.mgrid[:side, :side]
    depth = np.where((abs(columns - 64) * 2 < width) & (abs(rows - 64) < 50), 0.59, 0.6)
    xyz = np.stack([(columns - 63.5) * step, (rows - 63.5) * step, depth], axis=2).astype(np.float32)
    return Scan(xyz, np.ones((side, side), bool), np.full((side, side, 3), 120, np.uint8))


def test_objects_too_narrow_for_normals_are_placed_all_the_same() -> None:
    scans = [bar(4) for _ in range(4)]
    options = RigOptions(size=64)
    rig = fit_cameras([measured_scan(scan, RenderOptions(rig=options)) for scan in scans], options)
    assert rig.frame is not None
    done = views_of_scan(scans[0], RenderOptions(backend="cpu", rig=options), rig)
    assert (done.views.source[0] >= 0).any()


@pytest.mark.thorough(3)
def test_a_crumb_fits_no_pose() -> None:
    frame = frame_of(category("hook")[0])
    crumb = bar(4)
    crumb.xyz[..., 2] = np.where(np.mgrid[:128, :128].max(axis=0) < 70, crumb.xyz[..., 2], np.float32(0.6))
    assert frame.pose_of(scan_points(crumb, clean(crumb, CleanOptions()))).number == NO_POSE


@pytest.mark.thorough(3)
def test_noise_makes_no_crash_and_no_turn() -> None:
    train, _ = category("disc")
    frame = frame_of([shown(scan.planned, noisy) for scan in train[:8]])
    assert all(pose.order == 0 for pose in frame.poses)
    assert all(np.isfinite(frame.pose_of(scan.points).matrix).all() for scan in train[:2])


@pytest.mark.thorough(3)
def test_frames_survive_json_and_do_not_depend_on_chance() -> None:
    train, test = category("hook")
    frame, again = frame_of(train), frame_of(train)
    assert frame.sha256 == again.sha256
    back = ObjectFrame.from_json(json.loads(json.dumps(frame.to_json())))
    assert back.sha256 == frame.sha256
    for scan in test[:3]:
        assert np.array_equal(back.pose_of(scan.points).matrix, frame.pose_of(scan.points).matrix)
    sent = pickle.dumps(frame)
    assert len(sent) < 60_000
    assert pickle.loads(sent) is pickle.loads(sent), "a process makes one frame, however many scans it is sent with"
    assert pickle.loads(sent).sha256 == frame.sha256
    broken = frame.to_json()
    broken["poses"][0]["template"]["maps"] = broken["poses"][0]["template"]["maps"][:-8]
    with pytest.raises(ValueError, match=r"template|base64|padding|reshape"):
        ObjectFrame.from_json(broken)
    with pytest.raises(BadInput, match="rig"):
        Rig.from_json(rig_of(train).to_json() | {"frame": broken})


def rig_of(scans: list[Shown], options: RigOptions | None = None) -> Rig:
    options = options or RigOptions(size=128)
    return fit_cameras([measured_scan(scan.scan, RenderOptions(rig=options)) for scan in scans], options)


@pytest.mark.thorough(4)
@pytest.mark.parametrize("name", ["hook", "plate"])
def test_no_training_object_is_cut_and_view_0_is_filled(name: str, tell: Callable[[str], None]) -> None:
    train, _ = category(name)
    rig = rig_of(train)
    fills = []
    for one in train:
        done = views_of_scan(one.scan, RenderOptions(backend="cpu", rig=RigOptions(size=128)), rig)
        assert done.cut == []
        seen = np.argwhere(done.views.source[0] >= 0)
        fills.append((seen.max(axis=0) - seen.min(axis=0) + 1).max() / rig.size)
    tell(f"{name}: the object's box fills {100 * np.median(fills):.0f} % of view 0's side in the median")
    assert np.median(fills) >= 0.75
    assert len({tuple(intrinsics[[0, 1], [2, 2]]) for intrinsics in rig.intrinsics}) > 1, "each view has its own principal point"


@pytest.mark.thorough(3)
def test_stray_pieces_do_not_widen_the_views() -> None:
    train, _ = category("hook")
    torn = []
    for one in train:
        xyz = one.scan.xyz.copy()
        away = np.nonzero(one.scan.valid & (np.abs(np.arange(SIZE) - 12)[:, None] < 2) & (np.abs(np.arange(SIZE) - 80)[None] < 2))
        xyz[away] *= np.float32(0.99)  # some points float 7 mm above the support, far from the object
        torn.append(replace(one, scan=replace(one.scan, xyz=xyz)))
    plain, with_strays = rig_of(train), rig_of(torn)
    assert with_strays.intrinsics[:, 0, 0] == pytest.approx(plain.intrinsics[:, 0, 0], rel=0.02)
    surface = build_surface(torn[0].scan, clean(torn[0].scan, CleanOptions(piece_reach=9, piece_share=0)), SurfaceOptions())
    assert len(surface.body) < len(surface.vertices)


def test_an_object_that_reaches_beyond_a_view_is_named() -> None:
    train, _ = category("hook")
    rig = rig_of(train)
    narrow = replace(rig, intrinsics=rig.intrinsics * np.array([[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]))
    narrow.intrinsics[2, [0, 1], [0, 1]] *= 2
    done = views_of_scan(train[0].scan, RenderOptions(backend="cpu", rig=RigOptions(size=128)), narrow)
    assert done.cut == [2]


@pytest.mark.thorough(3)
def test_view_0_looks_along_the_support_and_along_the_sensor_where_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = category("hook")
    slanted = rig_of(train)
    assert slanted.frame is not None
    assert slanted.frame.axis == "support"
    before, _ = stand_before(slanted, train[0].scan, clean(train[0].scan, CleanOptions()), RigOptions())
    assert np.degrees(np.arccos(before.poses[0, 2, 2])) == pytest.approx(22, abs=2)
    monkeypatch.setattr(mvtec3d, "_PLANE_TILT_DEG", 1.0)
    level = [shown(scan.planned) for scan in train[:4]]
    straight = rig_of(level)
    assert straight.frame is not None
    assert straight.frame.axis == "sensor"
    before, pose = stand_before(straight, level[0].scan, clean(level[0].scan, CleanOptions()), RigOptions())
    assert before.poses[0, 2, 2] == pytest.approx(1, abs=1e-9)
    assert pose.matrix[2, 2] == pytest.approx(1, abs=1e-9)


def test_aligned_objects_look_alike() -> None:
    """Two scans at different turns show the same outline in every view; in the sensor's frame they do not."""
    train, test = category("hook")
    good = [scan for scan in test if scan.planned.defect == "good"][:2]

    def overlap(options: RigOptions) -> float:
        rig = rig_of(train, options)
        views = [views_of_scan(one.scan, RenderOptions(backend="cpu", rig=options), rig).views.source >= 0 for one in good]
        return float((views[0] & views[1]).sum() / (views[0] | views[1]).sum())

    aligned, as_it_lies = (overlap(RigOptions(size=128, frame=frame, center="scan")) for frame in ("object", "sensor"))
    assert aligned > 0.75  # what the sensor has not seen differs
    assert aligned > as_it_lies + 0.15


def upside_down(scan: Scan) -> Scan:
    """Return the scan as a sensor gives it that hangs upside down: half a turn about its axis."""
    xyz, valid, rgb = (np.ascontiguousarray(planes[::-1, ::-1]) for planes in (scan.xyz, scan.valid, scan.rgb))
    xyz[..., :2] *= -1
    return Scan(xyz, valid, rgb, None if scan.gt is None else np.ascontiguousarray(scan.gt[::-1, ::-1]))


def half_outside(scan: Scan) -> Scan:
    """Return the half of a scan to the right of its object's middle."""
    middle = int(np.median(np.nonzero(clean(scan, CleanOptions()).keep)[1]))
    return Scan(*(np.ascontiguousarray(planes[:, middle:]) for planes in (scan.xyz, scan.valid, scan.rgb)))


def noisy(scan: Scan) -> Scan:
    """Return a scan whose object's heights are noise."""
    rng, cleaned = np.random.default_rng(0), clean(scan, CleanOptions())
    rays = scan.xyz / np.maximum(scan.xyz[..., 2:], 1e-6)
    depth = np.where(cleaned.keep, scan.xyz[..., 2] - np.abs(rng.normal(0, 0.006, scan.valid.shape)), scan.xyz[..., 2])
    return replace(scan, xyz=(rays * depth[..., None]).astype(np.float32))


@pytest.mark.parametrize("change", [upside_down, half_outside, noisy], ids=lambda change: change.__name__)
def test_strange_scans_are_rendered_and_known_as_such(change: Callable[[Scan], Scan]) -> None:
    train, test = category("hook")
    rig = rig_of(train)
    assert rig.frame is not None
    scan = change(test[0].scan)
    done = views_of_scan(scan, RenderOptions(backend="cpu", rig=RigOptions(size=128)), rig)
    assert (done.views.source >= 0).any()
    assert np.isfinite(done.pose.matrix).all()
    if change is upside_down:  # it is the same object at another turn
        assert (done.pose.number, done.cut) == (0, [])
        assert done.pose.fit == pytest.approx(rig.frame.pose_of(test[0].points).fit, abs=0.05)
    else:
        assert done.pose.fit is not None
        assert done.pose.fit < 0.95


@pytest.mark.thorough(3)
def test_another_part_fits_no_pose() -> None:
    frame = frame_of(category("hook")[0])
    assert frame.pose_of(category("disc")[1][0].points).number == NO_POSE
    assert frame.pose_of(category("plate")[1][0].points).number == NO_POSE


def test_shading_goes_and_marks_stay() -> None:
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(4000, 3)) + np.array([0, 0, -2])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mark = np.arange(4000) % 10 == 0
    reflectance = np.where(mark, 0.2, 0.6)
    light = np.array([0.5, 0.2, -0.9]) / np.linalg.norm([0.5, 0.2, -0.9])
    grey = reflectance * (0.3 + 0.7 * np.clip(normals @ light, 0, 1))
    left = without_shading(grey, normals)
    assert abs(np.corrcoef(left[~mark], normals[~mark] @ light)[0, 1]) < 0.5
    assert left[~mark].std() < 0.07
    assert left[mark].mean() == pytest.approx(-2 / 3, abs=0.05)


def test_the_record_of_a_pose_is_rigid_and_turns_about_the_support() -> None:
    train, test = category("hook")
    frame = frame_of(train)
    for scan in test[:3]:
        pose: ObjectPose = frame.pose_of(scan.points)
        rotation = pose.matrix[:3, :3]
        assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-9
        plane = clean(scan.scan, CleanOptions()).plane
        assert rotation[2] == pytest.approx(-plane[:3], abs=1e-9)
        on_support = -plane[3] * plane[:3]
        assert in_frame(on_support[None], pose)[0, 2] == pytest.approx(frame.height_m, abs=1e-9)


@pytest.mark.thorough(6)
def test_a_template_of_one_scan_is_that_scan() -> None:
    one = category("boss")[0][0]
    frame = frame_of(category("boss")[0])
    template: Template = frame.poses[0].template
    surface = build_surface(one.scan, clean(one.scan, CleanOptions()), SurfaceOptions())
    assert np.ptp(in_frame(surface.vertices, frame.pose_of(one.points))[:, 2]) == pytest.approx(template.maps[0].max(), abs=0.003)


@pytest.mark.parametrize("order", [2, 3, 4, 6])
def test_every_part_of_a_full_turn_is_tried(order: int) -> None:
    """Whatever is the best of those before: a gear with one mark has as many turns that are nearly alike as teeth."""
    for right in range(order):

        class Stub:
            center = (0.0, 0.0)

            def of(self, at: Placement) -> Placement:
                step = round(at.turn * order / (2 * np.pi)) % order
                return replace(at, energy=1.0 - 0.01 * step if step != right else 0.5)  # noqa: B023  # called in this round

            def candidates(self, scan: object, flip: float, spreads: object) -> list[tuple[float, Placement]]:
                return [(1.0, Placement(0.0, (0.0, 0.0), flip))]

            def roughly(self, scan: object, at: Placement, spreads: object, turns: bool) -> Placement:
                return self.of(at)

            def again(self, scan: object, at: Placement, *more: object) -> Placement:
                return self.of(at)

            refined = again

        spreads = (np.ones(2), np.ones(2))
        _, found = place(None, [Stub()], [1.0], spreads, [order])  # type: ignore[arg-type, list-item]
        assert found.energy == 0.5, right
