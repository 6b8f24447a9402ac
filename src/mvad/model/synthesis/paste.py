"""Corrupt normal views: texture on colour (DeSTSeg, section 3.1), bumps and dents on depth and normals.

All random numbers of a step are drawn first, for the whole batch on the CPU, so that they are the same on every device and
for every number of ranks; the images are then computed in batch, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from mvad.errors import BadInput
from mvad.model.config import PseudoConfig
from mvad.model.images import ViewImages
from mvad.model.input_spec import InputSpec
from mvad.model.synthesis.perlin import PerlinNumbers, draw_perlin, make_perlin
from mvad.model.synthesis.regions import RegionNumbers, draw_regions, make_regions
from mvad.model.synthesis.textures import Textures
from mvad.model.training.numbers import Carried, HostTensor, mapped
from mvad.model.training.parallel import ProcessGroup

_MAX_DEPTH_M = 2.0
"""Depths beyond this are not in metres (Eyecandies); heights of bumps are then relative to the object's radius."""
_USUAL_RADIUS_M = 0.03
"""Radius of an object for which ``pseudo.bump_mm`` is meant, where units are not metres."""
_OCCUPANCY = 32
"""Cells a side in which the area of an object on its scan is counted."""
_BLUR, _NOTICED = 5, 20.0
"""Window, pixels, and difference (0..255) over it, from which a swapped view counts as different."""


@dataclass(frozen=True)
class Corrupted:
    """Views with pseudo anomalies.

    Attributes
    ----------
    images
        (B, V, M, 3, S, S) float32 in 0..255.
    mask
        (B, V, M, S, S) float32, 1 where this modality was changed.
    """

    images: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Plan:
    """The random numbers of a batch of pseudo anomalies.

    Attributes
    ----------
    noise
        Perlin numbers of N masks; N is B * V, or B where views are consistent.
    chance
        (B, V or 1, M, 6) uniform numbers: whether to corrupt, which modalities, opacity, sign, height, strength.
    textures
        What ``Textures.make`` needs for the N textures of each modality that gets textures, by its index.
    edge
        Width of the edges of bumps and dents, pixels.
    regions
        Numbers of the compact masks; None without any (``pseudo.compact``).
    swaps
        For each sample: (0..1) whether a view is swapped, the view, and the other sample as a step in the batch, (B, 3) float32
        on the host; None without any (``pseudo.swap``).
    """

    noise: PerlinNumbers
    chance: Tensor
    textures: Mapping[int, tuple[Tensor, ...]]
    edge: int
    regions: RegionNumbers | None = None
    swaps: HostTensor | None = None


def plan_corruption(
    samples: int, size: int, spec: InputSpec, textures: Textures, config: PseudoConfig, generator: torch.Generator,
    ranks: ProcessGroup | None = None,
) -> Plan:  # fmt: skip
    """Draw the random numbers of a batch, on the host.

    Parameters
    ----------
    samples
        Number of samples of this rank.
    size
        Side of a view in pixels.
    generator
        Random generator of the step, on the CPU; the numbers of all ranks are drawn, and those of this rank returned.
    ranks
        The processes that train together; default: this process alone.
    """
    ranks, own = ranks or ProcessGroup(), samples
    samples = own * ranks.size
    masks_per_sample = 1 if config.views == "consistent" else spec.views
    noise = draw_perlin(samples * masks_per_sample, config.max_scale, generator)
    chance = torch.rand(samples, masks_per_sample, len(spec.modalities), 6, generator=generator)
    textured = [m for m, name in enumerate(spec.modalities) if name == "rgb" or config.modality == "texture"]
    drawn = {m: textures.plan(samples * masks_per_sample, size, generator) for m in textured}
    edge = int(2 * torch.randint(1, max(2, size // 32), (1,), generator=generator) + 1)
    regions = draw_regions(samples * masks_per_sample, config.compact, generator) if config.compact else None
    swaps = HostTensor(torch.rand(samples, 3, generator=generator)) if config.swap else None
    part = _part(Plan(noise, chance, drawn, edge, regions, swaps), samples, ranks.rank * own, own)
    return replace(part, textures={m: textures.ready(numbers, size) for m, numbers in part.textures.items()})


def corrupt(
    views: ViewImages, spec: InputSpec, textures: Textures, config: PseudoConfig, generator: torch.Generator,
    ranks: ProcessGroup | None = None,
) -> Corrupted:  # fmt: skip
    """Draw the numbers of a batch (``plan_corruption``), and add its pseudo anomalies (``corrupt_by_plan``)."""
    samples, size = len(views.images), views.images.shape[-1]
    plan = plan_corruption(samples, size, spec, textures, config, generator, ranks)
    return corrupt_by_plan(views, Carried(plan, views.images.device).arrive(), spec, textures, config)


def corrupt_by_plan(views: ViewImages, plan: Plan, spec: InputSpec, textures: Textures, config: PseudoConfig) -> Corrupted:
    """Add one pseudo anomaly to each view; the modalities of a view share its mask.

    With two modalities a third of the views are changed in colour only, a third in geometry only, a third in both. With
    ``pseudo.views = consistent`` mask and texture are defined on the scan, and each view shows the part that is visible in it.

    Parameters
    ----------
    views
        This rank's part of the batch.
    plan
        Its random numbers (``plan_corruption``), on the device of the views.

    Raises
    ------
    BadInput
        If views are to be consistent and the batch has no ``source``.
    """
    b, _, _, _, size, _ = views.images.shape
    changed = torch.empty_like(views.images)
    masks = torch.empty(*views.images.shape[:3], size, size, device=views.images.device)
    # A CPU is twice as fast on data that fit into its cache; a GPU is fastest on the whole batch.
    rows = 1 if views.images.device.type == "cpu" else b
    for first in range(0, b, rows):
        chosen = slice(first, first + rows)
        numbers = _part(plan, b, first, rows)
        source = None if views.source is None else views.source[chosen]
        some = ViewImages(views.images[chosen], views.seen[chosen], views.present[chosen], source)
        _corrupt(some, numbers, spec, textures, config, changed[chosen], masks[chosen])
    if plan.swaps is not None:
        _swap_views(views, plan.swaps.values, config.swap, changed, masks)
    return Corrupted(changed, masks)


def _swap_views(views: ViewImages, numbers: Tensor, share: float, changed: Tensor, masks: Tensor) -> None:
    """Show in one view of some samples the same view of another sample instead, and mark where the two differ.

    What such a view shows is normal by itself; only the other views tell that it does not belong to them.
    """
    b, v = views.present.shape
    for row in range(b if b > 1 else 0):
        chance, view, step = numbers[row].tolist()
        other, view = (row + 1 + int(step * (b - 1))) % b, int(view * v)
        if chance >= share or not bool(views.present[row, view] & views.present[other, view]):
            continue
        own, shown = views.images[row, view], views.images[other, view]
        apart = functional.avg_pool2d((own - shown).abs().mean(dim=1), _BLUR, 1, _BLUR // 2)
        changed[row, view] = shown
        masks[row, view] = (apart > _NOTICED).to(masks.dtype)


def _corrupt(
    views: ViewImages, plan: Plan, spec: InputSpec, textures: Textures, config: PseudoConfig, changed: Tensor, masks: Tensor
) -> None:
    """Compute the images and masks of some samples, and write them into ``changed`` and ``masks``."""
    b, v, m, _, size, _ = views.images.shape
    chance = plan.chance.expand(b, v, m, 6)
    noise = make_perlin(plan.noise, size)
    made_textures = {number: textures.make(ready, size) for number, ready in plan.textures.items()}
    if config.views == "consistent":
        positions = _on_scan(views, spec)
        noise = _sample(noise[:, None], positions)[:, :, 0]
        made_textures = {number: _sample(texture, positions) for number, texture in made_textures.items()}
    else:
        noise = noise.view(b, v, size, size)
        made_textures = {number: texture.view(b, v, 3, size, size) for number, texture in made_textures.items()}
    mask = noise > config.threshold
    if plan.regions is not None:
        compact = _compact(plan.regions, noise, views, positions if config.views == "consistent" else None)
        mask = torch.where(plan.regions.is_compact.view(b, -1, 1, 1), compact, mask)
    mask &= (chance[:, :, 0, 0] < config.probability)[:, :, None, None]
    if config.region == "object":
        mask &= views.seen
    alternates = "rgb" in spec.modalities and m > 1
    kind, sign = chance[:, :, 0, 1], torch.where(chance[:, :, 0, 3] < 0.5, -1.0, 1.0)[:, :, None, None]
    for number, modality in enumerate(spec.modalities):
        part = masks[:, :, number].copy_(mask)
        if alternates:
            active = (kind < 2 / 3) if modality == "rgb" else (kind > 1 / 3)
            part *= active[:, :, None, None]
        plane, numbers = views.images[:, :, number], chance[:, :, number, :, None, None]
        if number in made_textures:
            weight = part * (1 - numbers[:, :, 2] * config.max_opacity)
            torch.lerp(plane, made_textures[number], weight[:, :, None], out=changed[:, :, number])
        elif modality == "depth":
            changed[:, :, number] = _raise(plane, _bump(part, sign, plan.edge), spec, config, numbers)
        else:
            changed[:, :, number] = _tilt(plane, part, _bump(part, sign, plan.edge), numbers)


def _compact(regions: RegionNumbers, noise: Tensor, views: ViewImages, positions: Tensor | None) -> Tensor:
    """Return compact masks (B, V, S, S) bool: of each view on its own, or of the places on the scan (B, V, S, S, 2) if given."""
    b, v, size, _ = views.seen.shape
    if positions is not None:
        cells = ((positions + 1) * (_OCCUPANCY / 2)).floor().clamp(0, _OCCUPANCY - 1).long()
        number = cells[..., 1] * _OCCUPANCY + cells[..., 0]
        covered = torch.zeros(b, _OCCUPANCY**2, device=noise.device)
        shown = views.seen & (positions[..., 0] <= 1)
        covered.scatter_add_(1, number.flatten(1), shown.flatten(1).float())
        area = (covered > 0).sum(dim=1) * (2 / _OCCUPANCY) ** 2
        return make_regions(regions, noise, shown, positions, area)
    line = torch.arange(size, device=noise.device, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).expand(b * v, 1, size, size, 2)
    shown = views.seen.reshape(b * v, 1, size, size)
    area = shown.flatten(1).sum(dim=1).float()
    return make_regions(regions, noise.reshape(b * v, 1, size, size), shown, pixels, area).view(b, v, size, size)


def _part(plan: Plan, samples: int, first: int, count: int) -> Plan:
    """Return the numbers of ``count`` samples, from ``first`` on, of a plan for ``samples``."""

    def chosen(tensor: Tensor) -> Tensor:
        per_sample = len(tensor) // samples
        return tensor[first * per_sample : (first + count) * per_sample]

    part: Plan = mapped(plan, chosen)
    return part


def _on_scan(views: ViewImages, spec: InputSpec) -> Tensor:
    """Return each pixel's position on the scan (B, V, S, S, 2): x, y in -1..1 over the object's extent, 2 off the object."""
    if views.source is None or spec.scan_width is None:
        raise BadInput("pseudo.views = consistent needs scans' source maps; pack renders with source, or use independent")
    seen = views.source >= 0
    index = views.source.clamp(min=0).long()
    positions = torch.stack([index % spec.scan_width, index // spec.scan_width], dim=-1).float()
    outside = ~seen[..., None]
    low = positions.masked_fill(outside, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    high = positions.masked_fill(outside, -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
    spread = ((high - low).amax(dim=-1, keepdim=True) / 2).clamp(min=1)
    return ((positions - (low + high) / 2) / spread).masked_fill(outside, 2.0)


def _sample(maps: Tensor, positions: Tensor) -> Tensor:
    """Sample maps (B, C, S, S) on the scan at the positions of each view's pixels: (B, V, C, S, S)."""
    b, v, size = positions.shape[:3]
    seen = functional.grid_sample(maps, positions.reshape(b, v * size, size, 2), align_corners=False, padding_mode="border")
    return seen.view(b, -1, v, size, size).transpose(1, 2)


def _bump(mask: Tensor, sign: Tensor, edge: int) -> Tensor:
    """Return domes (sign -1: nearer) or dents (1) in the mask, (B, V, S, S) in -1..1, that rise over ``edge`` pixels and on inwards.

    What is marked as defective has to differ from a normal part: a bump that is flat inside has the normals of one there.
    """
    b, v, size, _ = mask.shape
    flat = mask.view(b * v, 1, size, size)
    hill = torch.zeros_like(flat)
    for width in (edge, 2 * edge + 1, 4 * edge + 1):
        hill += box_mean(box_mean(flat, width), width)
    hill = hill.view(b, v, size, size) * mask
    peak = hill.amax(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    return sign * hill / peak


def box_mean(maps: Tensor, width: int) -> Tensor:
    """Return means (N, C, H, W) over squares of an odd width, zeros beyond the border: by columns, then by rows, 2 width terms."""
    half = width // 2
    return functional.avg_pool2d(functional.avg_pool2d(maps, (width, 1), 1, (half, 0)), (1, width), 1, (0, half))


def _raise(plane: Tensor, hill: Tensor, spec: InputSpec, config: PseudoConfig, numbers: Tensor) -> Tensor:
    """Add a bump or dent (B, V, S, S) to depth images (B, V, 3, S, S) in 0..255."""
    assert spec.depth_range is not None
    middle, radius = spec.depth_range
    low, high = (value / 1000 for value in config.bump_mm[:2])
    if middle + radius > _MAX_DEPTH_M:
        low, high = low * radius / _USUAL_RADIUS_M, high * radius / _USUAL_RADIUS_M
    height = low + (high - low) * numbers[:, :, 4]
    change = -127.5 * height * hill / radius
    return plane + change[:, :, None]


def _tilt(plane: Tensor, mask: Tensor, hill: Tensor, numbers: Tensor) -> Tensor:
    """Rotate normals (B, V, 3, S, S) in 0..255 by the slopes of a bump or dent in the mask."""
    slope_x = functional.pad(hill[..., :, 2:] - hill[..., :, :-2], (1, 1)) / 2
    slope_y = functional.pad(hill[..., 2:, :] - hill[..., :-2, :], (0, 0, 1, 1)) / 2
    strength = (2 + 6 * numbers[:, :, 5]) * mask
    normal = plane / 127.5 - 1
    turned = normal + torch.stack([slope_x * strength, slope_y * strength, torch.zeros_like(hill)], dim=2)
    turned = functional.normalize(turned, dim=2)
    return torch.where((mask > 0)[:, :, None], (turned + 1) * 127.5, plane)
