"""Read a photograph as a camera or a person saved it: PNG, JPEG, BMP, TIFF or WebP, grey or colour, of 8 or 16 bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvad.datasets.images import MAX_SIDE, first_line, placeholder
from mvad.datasets.photographs.levels import ORIENTATION, TRANSPOSED, orientation_of_page, scaled, upright
from mvad.errors import BadInput

ENDINGS = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp")
"""Endings of photographs, lower-case without the dot."""

TURNED = "turned upright as its EXIF orientation says"
CUT_OUT = "has transparent pixels, which are taken as not seen"
SCALED = "has 16 bits a channel, scaled to 8 by the greatest level of the training pictures of its view"

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I")


@dataclass(frozen=True)
class Header:
    """What the header of a picture says.

    Attributes
    ----------
    width, height
        Pixels, after the EXIF orientation.
    bits
        Of a channel: 8 or 16.
    has_alpha
        Whether pixels may be transparent.
    """

    width: int
    height: int
    bits: int
    has_alpha: bool


@dataclass(frozen=True)
class Picture:
    """A photograph.

    Attributes
    ----------
    image
        The picture in colour of 8 bits, upright.
    seen
        (H, W) bool, false where the picture is transparent; None where it is opaque.
    notes
        What was decided in reading it.
    """

    image: Image.Image
    seen: NDArray[np.bool_] | None
    notes: tuple[str, ...]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return np.asarray(self.image)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.height, self.image.width


def read_header(path: Path, data: bytes | None = None) -> Header:
    """Read the header of a picture, whose content is ``data`` if it was read before; no pixel is decoded.

    Raises
    ------
    BadInput
        If it is missing, of another kind, larger than ``MAX_SIDE`` pixels a side, or its header is damaged.
    """
    if path.suffix[1:].lower() in ("tif", "tiff"):
        page = _only_page(path, data)
        orientation = page.orientation
        height, width, channels = page.shape_hwc
        bits, alpha = page.bits, channels in (2, 4)
    else:
        with _opened(path, data) as image:
            orientation, (width, height) = _orientation_of(image), image.size
            bits = 16 if _is_16_bit(image) else 8
            alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if orientation in TRANSPOSED:
        width, height = height, width
    return Header(width, height, bits, alpha)


def read_picture(path: Path, white: int | None = None, data: bytes | None = None) -> Picture:
    """Read a photograph as 8-bit colour, upright.

    Parameters
    ----------
    path
        The file.
    white
        Level of a picture of 16 bits that becomes 255; None: the least of 255, 1023, 4095, 16383 and 65535 that no level exceeds.
    data
        The file's content, if it was read before.

    Raises
    ------
    BadInput
        If it is missing, damaged, of another kind (float values, CMYK, several pages), or too large.
    """
    plain = _plain_jpeg(path, data)
    if plain is not None:
        return Picture(plain, None, ())
    values, colours, orientation = _levels(path, data)
    notes: list[str] = []
    seen = None
    if values.dtype == np.uint16:
        if (values[..., :colours] % 257).any():
            notes.append(SCALED)
        alpha = values[..., colours:]
        values = np.concatenate([scaled(values[..., :colours], white), (alpha // 257).astype(np.uint8)], axis=2)
    if values.shape[2] > colours:
        opaque = values[..., colours] >= 128
        if not (values[..., colours] == 255).all():
            seen = opaque
            notes.append(CUT_OUT)
    rgb = np.repeat(values[..., :1], 3, axis=2) if colours == 1 else values[..., :3]
    if orientation not in (0, 1):
        rgb, notes = upright(rgb, orientation), [*notes, TURNED]
        seen = None if seen is None else upright(seen, orientation)
    return Picture(Image.fromarray(np.ascontiguousarray(rgb)), seen, tuple(notes))


def _plain_jpeg(path: Path, data: bytes | None) -> Image.Image | None:
    """Return a JPEG in colour that is upright, which most photographs are, without copying its pixels; None for other pictures."""
    if path.suffix[1:].lower() in ("tif", "tiff"):
        return None
    with _opened(path, data) as image:
        if image.format != "JPEG" or image.mode != "RGB" or _orientation_of(image) not in (0, 1):
            return None
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"{path}: damaged ({first_line(error)}); save it again") from error
        return image


def greatest_level(path: Path) -> int:
    """Return the greatest level of the colours of a picture of 16 bits; see ``white_of``.

    Raises
    ------
    BadInput
        As ``read_picture``.
    """
    values, colours, _ = _levels(path, None)
    return int(values[..., :colours].max())


def _levels(path: Path, data: bytes | None) -> tuple[NDArray[Any], int, int]:
    """Return a picture's levels (H, W, C) uint8 or uint16, how many of the channels are colours (1 or 3), and its orientation."""
    if path.suffix[1:].lower() in ("tif", "tiff"):
        page = _only_page(path, data)
        values = page.values()
        return values, 3 if values.shape[2] >= 3 else 1, page.orientation
    with _opened(path, data) as image:
        orientation = _orientation_of(image)
        if _is_16_bit(image) and image.format == "PNG":
            content = path.read_bytes() if data is None else data
            try:
                values = np.asarray(imagecodecs.png_decode(content))
            except Exception as error:  # the codec has its own exceptions
                raise BadInput(f"{path}: damaged ({first_line(error)}); save it again") from error
            values = values[..., None] if values.ndim == 2 else values
            return values, 3 if values.shape[2] >= 3 else 1, orientation
        try:
            image.load()
            plain = _plain(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise BadInput(f"{path}: damaged ({first_line(error)}); save it again") from error
    values = np.asarray(plain)
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype != np.uint8:
        if values.min() < 0 or values.max() > 65535:
            raise BadInput(f"{path}: has levels outside of 0 to 65535; save it with 8 or 16 bits")
        values = values.astype(np.uint16)
    return values, 3 if values.shape[2] >= 3 else 1, orientation


def _plain(image: Image.Image) -> Image.Image:
    """Return an image without a palette, with an alpha channel only where it may be transparent."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        has_alpha = image.mode == "PA" or "transparency" in image.info
        return image.convert("RGBA" if has_alpha else "RGB")
    return image.convert("L") if image.mode == "1" else image


def _is_16_bit(image: Image.Image) -> bool:
    if image.mode.startswith("I"):
        return True
    return (
        image.mode in ("RGB", "RGBA", "LA")
        and image.format == "PNG"
        and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    )


def _orientation_of(image: Image.Image) -> int:
    try:
        if image.format != "PNG":
            return int(image.getexif().get(ORIENTATION, 1))
        exif = Image.Exif()  # getexif would decode all of a PNG
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        return 1  # damaged EXIF data say nothing


def _opened(path: Path, data: bytes | None) -> Image.Image:
    try:
        image = Image.open(path if data is None else io.BytesIO(data), formats=_FORMATS)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; give the picture, or leave this view out") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{path}: {placeholder(path, data) or f'not a picture (expected {_KINDS}); save it as one'}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: damaged ({first_line(error)}); save it again") from error
    if image.mode not in _MODES:
        image.close()
        raise BadInput(f"{path}: has the mode {image.mode}; save it as grey or RGB")
    _check_side(path, image.width, image.height)
    return image


_KINDS = "PNG, JPEG, BMP, TIFF or WebP"


def _check_side(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"{path}: {width} x {height} pixels is more than {MAX_SIDE} per side; refused")


@dataclass(frozen=True)
class _TiffPage:
    """The one page of a TIFF."""

    path: Path
    data: bytes | None
    shape_hwc: tuple[int, int, int]
    bits: int
    orientation: int
    photometric: int

    def values(self) -> NDArray[Any]:
        """Decode it as (H, W, C) uint8 or uint16."""
        try:
            with tifffile.TiffFile(self.path if self.data is None else io.BytesIO(self.data)) as file:
                page: Any = file.pages[0]
                values = np.asarray(page.asarray())
                if self.photometric == tifffile.PHOTOMETRIC.PALETTE:
                    values = (np.asarray(page.colormap)[:, values] // 257).astype(np.uint8)
                    return np.moveaxis(values, 0, 2)
        except Exception as error:  # tifffile and its codecs raise many types for damaged files
            raise BadInput(f"{self.path}: damaged ({first_line(error)}); save it again") from error
        if values.ndim == 2:
            values = values[..., None]
        elif values.shape[:2] != self.shape_hwc[:2]:
            values = np.moveaxis(values, 0, 2)
        if values.dtype == bool:
            values = values.astype(np.uint8) * np.uint8(255)
        if self.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            values = np.iinfo(values.dtype).max - values
        return values


def _only_page(path: Path, data: bytes | None) -> _TiffPage:
    """Read the header of a TIFF, which must have one page of a plain kind."""
    try:
        with tifffile.TiffFile(path if data is None else io.BytesIO(data)) as file:
            pages: Sequence[Any] = list(file.pages)
            page: Any = pages[0]
            shape, dtype, bits = tuple(page.shape), page.dtype, int(page.bitspersample)
            photometric, orientation = int(page.photometric), orientation_of_page(page)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; give the picture, or leave this view out") from error
    except Exception as error:  # tifffile raises many types for damaged files
        raise BadInput(
            f"{path}: {placeholder(path, data) or f'not readable as a TIFF ({first_line(error)}); save it again'}"
        ) from error
    if len(pages) > 1:
        raise BadInput(f"{path}: has {len(pages)} pages; save one picture per file")
    plain = (
        tifffile.PHOTOMETRIC.MINISBLACK,
        tifffile.PHOTOMETRIC.MINISWHITE,
        tifffile.PHOTOMETRIC.RGB,
        tifffile.PHOTOMETRIC.PALETTE,
    )
    if photometric not in plain or dtype not in (np.uint8, np.uint16, bool) or len(shape) not in (2, 3):
        kind = tifffile.PHOTOMETRIC(photometric).name if photometric in list(tifffile.PHOTOMETRIC) else photometric
        raise BadInput(f"{path}: is a TIFF of {dtype} {shape} ({kind}); save it as grey or RGB with 8 or 16 bits")
    if len(shape) == 2:
        shape = (*shape, 3 if photometric == tifffile.PHOTOMETRIC.PALETTE else 1)
    elif shape[0] in (1, 2, 3, 4) and shape[2] not in (1, 2, 3, 4):
        shape = (shape[1], shape[2], shape[0])
    if shape[2] not in (1, 2, 3, 4):
        raise BadInput(f"{path}: has {shape[2]} channels; save it as grey or RGB")
    _check_side(path, shape[1], shape[0])
    return _TiffPage(path, data, (shape[0], shape[1], shape[2]), 16 if bits == 16 else 8, orientation, photometric)


def mask_levels(path: Path, data: bytes | None = None) -> tuple[NDArray[np.int64], bool]:
    """Read a mask of any of the kinds of pictures: (H, W) int64 levels, the greatest over channels, and whether it is JPEG.

    Raises
    ------
    BadInput
        As ``read_picture``, or if the mask is partly transparent.
    """
    values, colours, orientation = _levels(path, data)
    if values.shape[2] > colours and not (values[..., colours] == values[..., colours].max()).all():
        raise BadInput(f"{path}: has transparent pixels, so what it marks is a guess; save it without an alpha channel")
    levels = values[..., :colours].max(axis=2).astype(np.int64)
    head = path.read_bytes() if data is None else data
    return upright(levels, orientation), head.startswith(b"\xff\xd8")
