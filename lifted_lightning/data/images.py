"""Reading one image file, whatever its kind, and readers that find files below a folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from lifted_lightning.errors import UserError

# What Pillow opens and people keep pictures in; its own list also has PDF, MPEG and other surprises.
JPEGS = (".jpg", ".jpeg", ".jfif", ".jp2")


BITMAPS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".tga", ".ppm", ".pgm", ".pbm", ".pnm")


EXTENSIONS = frozenset((*JPEGS, *BITMAPS))


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode an image file completely.

    The image is upright (EXIF rotation applied), has 8 bits a channel (16-bit files scaled down), is on white
    where it was transparent, and is the first frame of an animated file.

    Returns:
        an image of mode L if the file is grey and opaque, else RGB (CMYK and palettes converted).

    Raises:
        UserError: naming the file, if it is missing, empty, truncated, no image, or of an unusable kind.
    """
    try:
        with Image.open(path) as image:
            image.load()
            grey = image.mode in ("1", "L") or image.mode.startswith("I")
            return flattened(image, 1 if grey and "transparency" not in image.info else 3)
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{os.fspath(path)}: no such file") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise UserError(f"{os.fspath(path)}: {_reason(path, error)}") from error


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a folder, not an image"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if os.path.getsize(path) == 0:
        return "is empty (zero bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "is no image, or damaged at its start"
    return f"cannot be decoded ({' '.join(str(error).split())[:150] or type(error).__name__})"


@dataclass(frozen=True)
class FileReader:
    """Reads items that are paths relative to a folder. Absolute paths are read as they are.

    Args:
        base: the folder.
    """

    base: Path

    def __call__(self, item: str) -> Image.Image:
        return read_image(self.base / item)


ResizeMode = Literal["squash", "crop", "pad"]


RESIZE_MODES: tuple[str, ...] = get_args(ResizeMode)


UInt8Array = npt.NDArray[np.uint8]


# A pixel with any channel darker than this belongs to the content; above it lies the noise of a JPEG's white.
WHITE = 245


def to_pixels(image: Image.Image, size: int, mode: ResizeMode, channels: int) -> UInt8Array:
    """Decode an image to (size, size, channels) uint8.

    Args:
        image: any image that Pillow opens; the first frame of an animated one is taken.
        size: side of the result in pixels.
        mode: ``squash`` scales both sides to ``size``, whatever the image's shape (the paper's, for CUB and
            Cars); ``crop`` scales the short side to ``size`` and takes the centre; ``pad`` cuts a white
            margin off, scales the long side to ``size`` and pads with white (the paper's, for Stanford
            Online Products).
        channels: 1 for grey, 3 for colour.

    Raises:
        ValueError: for pixels that are floating point numbers, whose range nothing tells.
        OSError: if the image's data are damaged.
    """
    image = flattened(image, channels)
    if mode == "pad":
        return padded(image.crop(content_box(image)), size)
    box = (0.0, 0.0, float(image.width), float(image.height))
    if mode == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    return channels_last(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def flattened(image: Image.Image, channels: int) -> Image.Image:
    """The image upright, with 8 bits a channel, on white where it is transparent; mode L or RGB."""
    if isinstance(image, ImageFile.ImageFile) or "exif" in image.info:  # else nothing says how it was held
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise ValueError("floating point pixels: save the image with 8 bits a channel")
    if image.mode.startswith("I"):  # 16 bits a pixel, which some versions of Pillow open as 32
        wide = np.asarray(image)
        if wide.min(initial=0) < 0 or wide.max(initial=0) >= 1 << 16:
            raise ValueError("pixels of more than 16 bits: save the image with 8 bits a channel")
        # Of dark images too, for all of a camera's should be on one scale.
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def content_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not white; the whole of a white image."""
    darkest = channels_last(image).min(axis=2)
    rows, columns = ((darkest < WHITE).any(axis=axis).nonzero()[0] for axis in (1, 0))
    if not len(rows):
        return (0, 0, image.width, image.height)
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def padded(image: Image.Image, size: int) -> UInt8Array:
    """Scale the long side to ``size``, centred on a white square."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new(image.mode, (size, size), "white")
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
    return channels_last(canvas)


def channels_last(image: Image.Image) -> UInt8Array:
    """(H, W, C) pixels of an image of mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
