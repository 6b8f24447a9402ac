"""Where textures come from: pictures of a folder (DTD), or made on the spot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mvad.errors import BadInput, MissingComponent
from mvad.model.pseudo.perlin import perlin_noise

PROCEDURAL = "procedural"
_CACHED = 512


class Textures(Protocol):
    """Gives pictures to paste."""

    name: str

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Return (count, 3, size, size) float32 in 0..255."""


class FolderTextures:
    """Random crops of the pictures below a folder, read once and kept at a moderate size.

    Raises
    ------
    BadInput
        If the folder holds no JPEG or PNG picture.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        if not paths:
            raise BadInput(f"{folder}: holds no JPEG or PNG picture; give --textures the folder dtd/images")
        self.name = f"{folder.parent.name}/{folder.name}, {len(paths)} pictures"
        self._paths = paths
        self._kept: dict[int, Tensor] = {}

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """See ``Textures.draw``."""
        crops = []
        for number in torch.randint(len(self._paths), (count,), generator=generator).tolist():
            picture = self._picture(number, size)
            top = int(torch.randint(picture.shape[1] - size + 1, (1,), generator=generator))
            left = int(torch.randint(picture.shape[2] - size + 1, (1,), generator=generator))
            crops.append(picture[:, top : top + size, left : left + size])
        return torch.stack(crops).float()

    def _picture(self, number: int, size: int) -> Tensor:
        if number not in self._kept:
            try:
                with Image.open(self._paths[number]) as image:
                    scale = 1.25 * size / min(image.size)
                    small = image.convert("RGB").resize(
                        (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
                    )
            except (OSError, SyntaxError) as error:
                raise BadInput(f"{self._paths[number]}: not a readable picture; remove it or get it again") from error
            picture = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
            if len(self._kept) >= _CACHED:
                return picture
            self._kept[number] = picture
        return self._kept[number]


class ProceduralTextures:
    """Noise and stripes in two random colours: no pictures needed, and no substitute for them in figures."""

    name = PROCEDURAL

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """See ``Textures.draw``."""
        colors = torch.rand(count, 2, 3, 1, 1, generator=generator) * 255
        smooth = perlin_noise(count, size, 5, generator)
        fine = functional.interpolate(torch.rand(count, 1, size // 2, size // 2, generator=generator), size=size)[:, 0]
        wave = torch.sin(smooth * (4 + 26 * torch.rand(count, 1, 1, generator=generator)))
        kind = torch.rand(count, 1, 1, generator=generator)
        weight = torch.where(kind < 0.4, 0.5 + 0.5 * wave, torch.where(kind < 0.7, fine, (smooth > 0).float()))[:, None]
        return colors[:, 0] * weight + colors[:, 1] * (1 - weight)


def locate_textures(option: str, workspace_folder: Path) -> str:
    """Return ``procedural`` or the folder to take: the option, MVAD_TEXTURES, MVAD_REAL_DATA/dtd, or the workspace's.

    Raises
    ------
    MissingComponent
        If there is none; procedural textures are never taken unasked.
    """
    chosen = option or os.environ.get("MVAD_TEXTURES", "")
    if chosen:
        return chosen
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
        If the folder holds no picture.
    """
    return ProceduralTextures() if located == PROCEDURAL else FolderTextures(Path(located))
