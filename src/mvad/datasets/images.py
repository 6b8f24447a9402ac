"""Decode one image file; kind, size and dtype are checked from the header before any pixel is decoded."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvad.errors import BadInput

logging.getLogger("tifffile").addHandler(logging.NullHandler())
"""Of a damaged file our message says enough; without a handler the library's own would be printed, too."""

MAX_SIDE = 8192
"""Greatest side of an image in pixels. No dataset of this field has larger ones; more is a decompression bomb or a wrong file."""

_TRANSPARENT = "{path}: has transparent pixels, {lack}; save it without an alpha channel"


def read_rgb(path: Path, shape: tuple[int, int] | None = None, data: bytes | None = None) -> NDArray[np.uint8]:
    """Read a colour image as (H, W, 3) uint8; ``shape`` is the (H, W) that it must have.

    Read as well are an opaque alpha channel, a palette, and 8-bit values written as 16 bits (every one a multiple of 257),
    none of which leaves a choice.

    ``data`` is the file's content, if it was read before.

    Raises
    ------
    BadInput
        If the file is missing, damaged, not RGB of 8 bits, partly transparent, or of another size.
    """
    image, _, is_16_bit = _decode(path, ("RGB", "RGBA", "P"), shape, data)
    if is_16_bit:
        return _halved(path, path.read_bytes() if data is None else data)
    return np.asarray(_opaque(path, image, "whose colour is a guess").convert("RGB"), dtype=np.uint8)


def read_levels(path: Path, data: bytes | None = None) -> tuple[NDArray[np.int64], bool]:
    """Read a mask as stored, (H, W) int64, and whether it is JPEG; ``masks.marked`` says what the levels mean.

    Of a picture in colours or with a palette the levels are each pixel's greatest channel.

    Raises
    ------
    BadInput
        If the file is missing, damaged, not a PNG or JPEG image, or partly transparent.
    """
    image, is_jpeg, is_16_bit = _decode(path, ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "I;16B"), None, data)
    if is_16_bit:
        values = np.asarray(imagecodecs.png_decode(path.read_bytes() if data is None else data))
        colours = 3 if values.shape[2] >= 3 else 1
        if (values[..., colours:] != 65535).any():
            raise BadInput(_TRANSPARENT.format(path=path, lack="so what it marks is a guess"))
        return values[..., :colours].max(axis=2).astype(np.int64), False
    image = _opaque(path, image, "so what it marks is a guess")
    if image.mode in ("1", "P", "RGBA", "LA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    levels = np.asarray(image).astype(np.int64)
    return (levels.max(axis=2) if levels.ndim == 3 else levels), is_jpeg


def read_gray16(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    """Read a 16-bit single-channel PNG (a depth map) as (H, W) uint16; see ``read_rgb``."""
    return np.asarray(_decode(path, ("I;16", "I;16B", "I"), shape)[0]).astype(np.uint16)


def _opaque(path: Path, image: Image.Image, lack: str) -> Image.Image:
    """Return an image, whose alpha channel, if it has one, must be opaque; ``lack`` says what is unknown otherwise."""
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadInput(_TRANSPARENT.format(path=path, lack=lack))
    return image


def _halved(path: Path, data: bytes) -> NDArray[np.uint8]:
    """Return a 16-bit PNG in colours whose values are those of 8 bits."""
    values = np.asarray(imagecodecs.png_decode(data))
    if values.shape[2] != 3 or (values % 257).any():
        raise BadInput(f"{path}: expected 8 bits per channel, found 16; save it with 8")
    return (values // 257).astype(np.uint8)


_PNG = {"rgb": (8, 2, np.uint8), "gray": (8, 0, np.uint8), "gray16": (16, 0, np.uint16)}
"""Bits, colour type and dtype of the kinds of PNG that mvad writes (PNG specification, 11.2.2)."""


def decode_png(path: Path, data: bytes, kind: str, shape: tuple[int, int]) -> NDArray[Any]:
    """Decode a PNG that was written by mvad: much faster than ``read_rgb``, with the same checks.

    Parameters
    ----------
    path
        The file's name, for error messages.
    data
        The file's content.
    kind
        ``rgb`` (H, W, 3) uint8, ``gray`` (H, W) uint8 or ``gray16`` (H, W) uint16.
    shape
        The (H, W) that it must have; the header is compared before anything is decoded.

    Raises
    ------
    BadInput
        If it is damaged or of another kind or size.
    """
    bits, colour, dtype = _PNG[kind]
    expected = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBB", shape[1], shape[0], bits, colour)
    if not data.startswith(expected):
        raise BadInput(f"{path}: is not a {bits}-bit PNG of {shape[1]} x {shape[0]} pixels; render again")
    try:
        image = imagecodecs.png_decode(data)
    except Exception as error:
        raise BadInput(f"{path}: damaged ({first_line(error)}); render again") from error
    return np.asarray(image, dtype=dtype)


def read_xyz(path: Path) -> NDArray[np.float32]:
    """Read an organised point TIFF as (H, W, 3) float32, in the file's unit.

    Read as well are float64, channels that come first, pages that are channels or rows, and a constant fourth channel, none of
    which leaves a choice.

    Raises
    ------
    BadInput
        If the file is missing, damaged, has several pages, or is not (H, W, 3) float.
    """
    try:
        with tifffile.TiffFile(path) as file:
            shape, dtype = _shape_of(path, file)
            first = len(shape) == 3 and shape[0] == 3 and shape[2] not in (3, 4)
            fits = len(shape) == 3 and (first or shape[2] in (3, 4)) and max(shape) <= MAX_SIDE
            if not fits or dtype not in (np.float32, np.float64):
                raise BadInput(f"{path}: expected (H, W, 3) float32, found {shape} {dtype}; is this a depth image?")
            values = np.stack([page.asarray() for page in file.pages]).reshape(shape)
        points = np.moveaxis(values, 0, 2) if first else values
        if points.shape[2] == 4 and not (points[..., 3] == points[0, 0, 3]).all():
            raise BadInput(f"{path}: expected three channels, found {shape}; write x, y and z alone")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(points[..., :3], dtype=np.float32)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; the scan is incomplete, download it again") from error
    except BadInput:
        raise
    except Exception as error:  # tifffile and its codecs raise many types for damaged files
        raise BadInput(
            f"{path}: {placeholder(path) or f'not readable as a TIFF ({first_line(error)}); download it again'}"
        ) from error


def _shape_of(path: Path, file: tifffile.TiffFile) -> tuple[tuple[int, ...], Any]:
    """Return shape and dtype of a TIFF of points without decoding it; pages are its channels (three) or its rows."""
    pages = [(page.shape, page.dtype) for page in file.pages]
    shape, dtype = pages[0]
    if len(pages) == 1:
        return shape, dtype
    if len(set(pages)) > 1 or len(shape) != 2 or not (len(pages) == 3 or shape[1] == 3):
        raise BadInput(f"{path}: expected one page, found {len(pages)}; is this an xyz image?")
    return (len(pages), *shape), dtype


def placeholder(path: Path, data: bytes | None = None) -> str:
    """Return what lies in a file's place where a download left something else there, with the remedy; or "".

    Recognised are pointers of git-lfs and git-annex, and pages of a website.
    """
    try:
        with path.open("rb") if data is None else io.BytesIO(data) as file:
            head = file.read(512).lstrip()
    except OSError:
        return ""
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file; run git lfs pull where it was cloned"
    if b"/annex/objects/" in head:
        return "is a pointer of git-annex, not the file; run git annex get where it was cloned"
    if head[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is a page of a website (a login or an error, say), not the file; download it again"
    return ""


def _decode(
    path: Path, modes: tuple[str, ...], shape: tuple[int, int] | None, data: bytes | None = None
) -> tuple[Image.Image, bool, bool]:
    """Return a decoded PNG or JPEG, whether it is JPEG, and whether it has colours of 16 bits, which Pillow truncates."""
    try:
        with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size = (image.height, image.width)
            if image.mode not in modes:
                raise BadInput(f"{path}: expected an image of mode {modes[0]}, found {image.mode}; is this the right file?")
            is_16_bit = image.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in image.tile)
            if max(size) > MAX_SIDE:
                raise BadInput(f"{path}: {size[1]} x {size[0]} pixels is more than {MAX_SIDE} per side; refused")
            if shape is not None and size != shape:
                raise BadInput(
                    f"{path}: expected {shape[1]} x {shape[0]} pixels, found {size[1]} x {size[0]}; "
                    "the files of this scan do not belong together"
                )
            image.load()
            return image.copy(), image.format == "JPEG", is_16_bit
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; the scan is incomplete, download it again") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{path}: {placeholder(path, data) or 'not a PNG or JPEG image; download it again'}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: damaged ({first_line(error)}); download it again") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
