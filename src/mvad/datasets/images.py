"""Decode one image file; kind, size and dtype are checked from the header before any pixel is decoded."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvad.errors import BadInput

MAX_SIDE = 8192
"""Greatest side of an image in pixels. No dataset of this field has larger ones; more is a decompression bomb or a wrong file."""


def read_rgb(path: Path, shape: tuple[int, int] | None = None, data: bytes | None = None) -> NDArray[np.uint8]:
    """Read an 8-bit colour image as (H, W, 3) uint8; ``shape`` is the (H, W) that it must have.

    ``data`` is the file's content, if it was read before.

    Raises
    ------
    BadInput
        If the file is missing, damaged, not 8-bit RGB, or of another size.
    """
    return np.asarray(_decode(path, ("RGB",), shape, data), dtype=np.uint8)


def read_gray(path: Path, shape: tuple[int, int] | None = None, data: bytes | None = None) -> NDArray[np.uint8]:
    """Read an 8-bit single-channel image (a mask) as (H, W) uint8; see ``read_rgb``."""
    image = _decode(path, ("L", "1"), shape, data)
    return np.asarray(image.convert("L"), dtype=np.uint8)


def read_gray16(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    """Read a 16-bit single-channel PNG (a depth map) as (H, W) uint16; see ``read_rgb``."""
    return np.asarray(_decode(path, ("I;16", "I;16B", "I"), shape)).astype(np.uint16)


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
        raise BadInput(f"{path}: damaged ({_first_line(error)}); render again") from error
    return np.asarray(image, dtype=dtype)


def read_xyz(path: Path) -> NDArray[np.float32]:
    """Read an organised point TIFF as (H, W, 3) float32, in the file's unit.

    Raises
    ------
    BadInput
        If the file is missing, damaged, has several pages, or is not (H, W, 3) float32.
    """
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise BadInput(f"{path}: expected one page, found {len(file.pages)}; is this an xyz image?")
            shape, dtype = file.pages[0].shape, file.pages[0].dtype
            if len(shape) != 3 or shape[2] != 3 or dtype != np.float32 or max(shape) > MAX_SIDE:
                raise BadInput(f"{path}: expected (H, W, 3) float32, found {shape} {dtype}; is this a depth image?")
            return np.ascontiguousarray(file.asarray())
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; the scan is incomplete, download it again") from error
    except BadInput:
        raise
    except Exception as error:  # tifffile and its codecs raise many types for damaged files
        raise BadInput(f"{path}: not readable as a TIFF ({_first_line(error)}); download it again") from error


def _decode(path: Path, modes: tuple[str, ...], shape: tuple[int, int] | None, data: bytes | None = None) -> Image.Image:
    try:
        with Image.open(path if data is None else io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size = (image.height, image.width)
            if image.mode not in modes:
                raise BadInput(f"{path}: expected an image of mode {modes[0]}, found {image.mode}; is this the right file?")
            if image.mode == "RGB" and any("16" in str(tile[3]) for tile in image.tile):
                raise BadInput(f"{path}: expected 8 bits per channel, found 16; is this the right file?")  # Pillow would truncate
            if max(size) > MAX_SIDE:
                raise BadInput(f"{path}: {size[1]} x {size[0]} pixels is more than {MAX_SIDE} per side; refused")
            if shape is not None and size != shape:
                raise BadInput(
                    f"{path}: expected {shape[1]} x {shape[0]} pixels, found {size[1]} x {size[0]}; "
                    "the files of this scan do not belong together"
                )
            image.load()
            return image.copy()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: not found; the scan is incomplete, download it again") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{path}: not a PNG or JPEG image; download it again") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: damaged ({_first_line(error)}); download it again") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
