"""Turned training views: pictures, outlines, source and normals turn together, and the teacher's cache tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import StopAfter, train

from mvad.datasets.shards.loader import ShardSet
from mvad.model.idif.augment import draw_turns, turned, turned_outlines
from mvad.model.idif.teacher_cache import TeacherCache
from mvad.model.idif.training_config import AugmentConfig
from mvad.model.idif.window import fitted
from mvad.model.images import ViewImages
from mvad.model.training.parallel import ProcessGroup

SIZE, FILL = 32, (10.0, 20.0, 30.0)


def sample(modalities: int = 2) -> ViewImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, modalities, 3, SIZE, SIZE, generator=generator) * 255
    images[:, :, 1] = (torch.nn.functional.normalize(images[:, :, 1] / 127.5 - 1, dim=2) + 1) * 127.5
    seen = torch.ones(2, 3, SIZE, SIZE, dtype=torch.bool)
    seen[:, :, :4] = False
    images = torch.where(seen[:, :, None, None], images, torch.tensor(FILL).view(3, 1, 1))
    source = torch.randint(0, 2**30, seen.shape, generator=generator, dtype=torch.int32).masked_fill(~seen, -1)
    return ViewImages(images, seen, torch.ones(2, 3, dtype=torch.bool), source)


def test_a_quarter_turn_is_exact() -> None:
    views = sample()
    after = turned(views, ("rgb", "normal"), torch.tensor([90.0, 0.0]), FILL)
    assert torch.equal(after.seen[0], torch.rot90(views.seen[0], -1, (-2, -1))), "from x to y: the left side comes up"
    assert views.source is not None
    assert after.source is not None
    assert torch.equal(after.source[0], torch.rot90(views.source[0], -1, (-2, -1)))
    assert torch.allclose(after.images[0, :, 0], torch.rot90(views.images[0, :, 0], -1, (-2, -1)), atol=1e-2)
    before = torch.rot90(views.images[0, :, 1], -1, (-2, -1))
    expected = torch.stack([255 - before[:, 1], before[:, 0], before[:, 2]], dim=1)
    expected = torch.where(after.seen[0, :, None], expected, torch.tensor(FILL).view(3, 1, 1))
    assert torch.allclose(after.images[0, :, 1], expected, atol=1e-2)
    assert torch.allclose(after.images[1], views.images[1], atol=1e-2)


def test_a_slope_that_turns_with_its_surface_keeps_its_direction() -> None:
    """A normal that points away from the middle still does so after any turn."""
    line = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    away = torch.stack([x, y, -torch.ones_like(x)], dim=0)
    images = ((torch.nn.functional.normalize(away, dim=0) + 1) * 127.5)[None, None, None]
    views = ViewImages(images, torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    after = turned(views, ("normal",), torch.tensor([33.0]), (0.0, 0.0, 0.0)).images
    middle = slice(SIZE // 4, 3 * SIZE // 4)
    assert torch.allclose(after[..., middle, middle], images[..., middle, middle], atol=2)


def test_what_is_not_the_object_has_the_fill_colour() -> None:
    after = turned(sample(), ("rgb", "normal"), torch.tensor([20.0, -7.0]), FILL)
    outside = ~after.seen[:, :, None, None].expand_as(after.images)
    colours = torch.tensor(FILL).view(3, 1, 1).expand_as(after.images)
    assert outside.any()
    assert torch.equal(after.images[outside], colours[outside])


def test_an_objects_rim_is_not_mixed_with_the_fill_colour() -> None:
    """Depth and normals would get an edge there that no test view has."""
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    seen = (torch.hypot(line[:, None], line[None]) < 10)[None, None]
    images = torch.where(seen[:, :, None, None], 200.0, torch.tensor(FILL).view(3, 1, 1)).expand(1, 1, 1, 3, SIZE, SIZE)
    after = turned(ViewImages(images, seen, torch.ones(1, 1, dtype=torch.bool)), ("rgb",), torch.tensor([17.0]), FILL)
    inside = after.images[0, 0, 0][:, after.seen[0, 0]]
    assert inside.shape[1] > 250
    assert torch.allclose(inside, torch.tensor(200.0), atol=0.1)


def test_the_heads_window_holds_turned_objects() -> None:
    seen = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    seen[:, 8:24, 8:24] = True
    plain, turned_by = (fitted(turned_outlines(seen, AugmentConfig(degrees)), SIZE).side for degrees in (0.0, 45.0))
    assert plain == 20
    assert turned_by >= 24, "a square of 16 pixels is 22.6 wide on its corner, and has a margin"


def test_angles_are_those_of_the_keys_and_the_same_for_any_number_of_ranks() -> None:
    config = AugmentConfig(5.0, 3, quarters=True)
    alone = draw_turns(40, config, torch.Generator().manual_seed(0), ProcessGroup())
    parts = [draw_turns(20, config, torch.Generator().manual_seed(0), ProcessGroup(rank, 2)) for rank in (0, 1)]
    assert alone is not None
    assert parts[0] is not None
    assert parts[1] is not None
    assert torch.equal(alone, torch.cat([parts[0], parts[1]]))
    assert set(alone.tolist()) <= {turn + 90 * k for turn in (-5.0, 0.0, 5.0) for k in range(4)}
    assert len(set(alone.tolist())) > 6
    assert draw_turns(4, AugmentConfig(), torch.Generator().manual_seed(0), ProcessGroup()) is None


@pytest.mark.thorough(4)
def test_the_teachers_targets_are_those_of_the_turned_views(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every epoch: a cache keyed by the sample alone would give the features of another turn."""
    seen: dict[str, torch.Tensor] = {}

    class Checked(TeacherCache):
        def __call__(self, images: torch.Tensor, keys: Any) -> tuple[torch.Tensor, ...]:
            found = super().__call__(images, keys)
            for key, picture, level in zip(keys, images, found[0], strict=True):
                assert torch.equal(level, self._features(picture)[0]), key
                seen[key] = picture
            return found

    monkeypatch.setattr("mvad.model.idif.detector.TeacherCache", Checked)
    gear = workspace / "shards" / "mvtec3d" / "gear"
    changes = {"augment.turn_deg": 10.0, "augment.turns": 2, "train.student_steps": 12, "train.head_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", gear, StopAfter(12), **changes)
    assert len(seen) > len(ShardSet(gear, "train").keys), "both turns of some samples"


def test_the_heads_window_holds_objects_at_every_turn_that_is_drawn() -> None:
    """A square is as wide as before at half a turn, and widest between."""
    seen = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    seen[:, 8:24, 8:24] = True
    for degrees in (90.0, 180.0):
        assert fitted(turned_outlines(seen, AugmentConfig(degrees, 9)), SIZE).side >= 24
