"""Sources of textures: images of a folder (DTD), or procedural textures."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mvad.datasets.folders import below
from mvad.errors import BadInput, MissingComponent
from mvad.model.synthesis.perlin import PerlinNumbers, draw_perlin, make_perlin

PROCEDURAL = "procedural"
_LIMIT_BYTES = 2 << 30
"""The whole DTD at 256 pixels takes about this."""


class Textures(Protocol):
    """Source of textures for pseudo anomalies.

    Random numbers are drawn first, one row per texture; the textures are computed from them later.
    """

    name: str

    def plan(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers of ``count`` textures; the first axis of each tensor is the texture."""

    def ready(self, plan: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
        """Return what ``make`` needs, after whatever is done on the host; the first axis of each tensor is the texture."""

    def make(self, ready: tuple[Tensor, ...], size: int) -> Tensor:
        """Return the textures (count, 3, size, size) float32 in 0..255 on the device of what ``ready`` returned."""


class FolderTextures:
    """Random crops of the images below a folder; resized images are kept in memory, up to 2 GiB of them.

    Raises
    ------
    BadInput
        If the folder holds no JPEG or PNG image.
    """

    def __init__(self, folder: Path) -> None:
        paths = [path for path in sorted(below(folder)) if path.suffix.lower() in {".jpg", ".jpeg", ".png"}]
        if not paths:
            raise BadInput(f"{folder}: holds no JPEG or PNG image; give --textures the folder dtd/images")
        self.name = f"{folder.parent.name}/{folder.name}, {len(paths)} pictures"
        self._paths = paths
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._bytes = 0

    def plan(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """See ``Textures.plan``; draws the image of each texture, and the position of the crop."""
        return torch.randint(len(self._paths), (count,), generator=generator), torch.rand(count, 2, generator=generator)

    def ready(self, plan: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
        """See ``Textures.ready``; returns the crops (count, 3, size, size) uint8."""
        crops = torch.empty(len(plan[0]), 3, size, size, dtype=torch.uint8)
        for row, (number, (down, right)) in enumerate(zip(plan[0].tolist(), plan[1].tolist(), strict=True)):
            picture = self._picture(number, size)
            top, left = (int(x * (n - size + 1)) for x, n in zip((down, right), picture.shape[1:], strict=True))
            crops[row] = picture[:, top : top + size, left : left + size]
        return (crops,)

    def make(self, ready: tuple[Tensor, ...], size: int) -> Tensor:
        """See ``Textures.make``."""
        return ready[0].float()

    def _picture(self, number: int, size: int) -> Tensor:
        if (number, size) not in self._kept:
            try:
                with Image.open(self._paths[number]) as image:
                    scale = 1.25 * size / min(image.size)
                    small = image.convert("RGB").resize(
                        (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
                    )
            except (OSError, SyntaxError) as error:
                raise BadInput(f"{self._paths[number]}: not a readable image; remove it or download it again") from error
            picture = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).contiguous()
            if self._bytes + picture.numel() > _most_bytes():
                return picture
            self._kept[number, size] = picture
            self._bytes += picture.numel()
        return self._kept[number, size]


class ProceduralTextures:
    """Noise and stripes in two random colours. They need no images, but results with them are not comparable with DTD."""

    name = PROCEDURAL

    def plan(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """See ``Textures.plan``."""
        noise = draw_perlin(count, 5, generator)
        colours, kind = torch.rand(count, 6, generator=generator), torch.rand(count, 2, generator=generator)
        fine = torch.rand(count, size // 2, size // 2, generator=generator)
        return noise.scales, noise.turns, noise.gradients, colours, kind, fine

    def ready(self, plan: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
        """See ``Textures.ready``: the numbers are enough."""
        return plan

    def make(self, ready: tuple[Tensor, ...], size: int) -> Tensor:
        """See ``Textures.make``."""
        scales, turns, gradients, colours, kinds, grain = ready
        smooth = make_perlin(PerlinNumbers(scales, turns, gradients), size)
        fine = functional.interpolate(grain[:, None], size=size)[:, 0]
        frequency, kind = kinds[:, :, None, None].unbind(1)
        wave = torch.sin(smooth * (4 + 26 * frequency))
        weight = torch.where(kind < 0.4, 0.5 + 0.5 * wave, torch.where(kind < 0.7, fine, (smooth > 0).float()))[:, None]
        first, second = (colours.view(-1, 2, 3, 1, 1) * 255).unbind(1)
        return torch.lerp(second, first, weight)


@cache
def _most_bytes() -> int:
    """Return how much memory images may take: 2 GiB, and at most a quarter of what was available."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(_LIMIT_BYTES, int(line.split()[1]) * 1024 // 4)
    return _LIMIT_BYTES


def locate_textures(option: str, workspace_folder: Path) -> str:
    """Return ``procedural`` or a folder: the option, else MVAD_TEXTURES, MVAD_REAL_DATA/dtd/images, or the workspace's folder.

    Raises
    ------
    MissingComponent
        If there is none; procedural textures are used only on request.
    """
    chosen = option or os.environ.get("MVAD_TEXTURES", "")
    if chosen:
        return os.path.expanduser(chosen)
    real = os.environ.get("MVAD_REAL_DATA")
    for folder in ([Path(real) / "dtd" / "images"] if real else []) + [workspace_folder]:
        if folder.is_dir():
            return str(folder)
    raise MissingComponent(
        "no textures for pseudo anomalies: put DTD's images into "
        f"{workspace_folder}, name a folder with --textures or MVAD_TEXTURES, or ask for --textures procedural"
    )


def load_textures(located: str) -> Textures:
    """Return the texture source that ``locate_textures`` named.

    Raises
    ------
    BadInput
        If the folder holds no image.
    """
    return ProceduralTextures() if located == PROCEDURAL else FolderTextures(Path(located))
