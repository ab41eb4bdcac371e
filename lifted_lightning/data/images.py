"""One image, from a file to pixels: read it, make it upright with 8 bits a channel, bring it to one size."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lifted_lightning.errors import UserError, one_line

# What Pillow opens and people keep pictures in; its own list also has PDF, MPEG and other surprises.
JPEGS = (".jpg", ".jpeg", ".jfif", ".jp2")
BITMAPS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".tga", ".ppm", ".pgm", ".pbm", ".pnm")
HEICS = (".heic", ".heif", ".hif")  # of telephones; Pillow reads them where pillow-heif is installed
EXTENSIONS = frozenset(JPEGS + BITMAPS + HEICS)
# A pixel with any channel darker than this belongs to the content; above it lies the noise of a JPEG's white.
WHITE = 245
# An image whose channels differ by more than this, on average, is in colour; below lies the tint of a scan.
TINT = 10

ResizeMode = Literal["squash", "crop", "pad"]
RESIZE_MODES: tuple[str, ...] = get_args(ResizeMode)
Interpolation = Literal["bilinear", "bicubic", "lanczos"]  # all smooth what they shrink
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
UInt8Array = npt.NDArray[np.uint8]
Size = int | tuple[int, int]  # of images, in pixels: the side of a square, or height and width
LARGEST = 4096  # pixels of a side: beyond, a single image would pass a network in gigabytes


def sides(size: Size, name: str = "size") -> tuple[int, int]:
    """Height and width of a size.

    Raises:
        UserError: for sides below 1 or above ``LARGEST``; it begins with the name.
    """
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(1 <= side <= LARGEST for side in both):
        raise UserError(f"{name} {size}: give at least 1 and at most {LARGEST} pixels, of a square or [height, width]")
    return both


def image_or_error(read: Callable[[], Image.Image], name: str, channels: int) -> Image.Image | UserError:
    """An image, ready to be resized, or why there is none: whoever uses an image reads it through here.

    Args:
        read: gives the image, ``lambda: read_image(path)`` for example; whatever it raises is an answer.
        name: of the image, for the error.
        channels: 1 for grey, 3 for colour.

    Returns:
        the image as ``normalized`` makes it; or an error of one line that begins with the name.
    """
    try:
        return normalized(read(), channels)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return UserError(f"{name}: is empty, no image, or damaged at its start")
    except Exception as error:  # damaged files make Pillow raise nearly anything
        return UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or one_line(error)})")


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decode an image file completely; of an animated file the first frame.

    Raises:
        OSError: if it is no regular file, for one would wait for ever for what a pipe brings.
        Exception: of nearly any kind, if it is missing or damaged.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("a folder, pipe or device, no file")
    with open(path, "rb") as file:
        start = file.read(64)  # which tell what it is: telephones' files often bear the ending of another kind
        file.seek(0)
        if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf") and b"avif" not in start:
            try:
                import pillow_heif
            except ImportError:
                raise OSError("HEIC: pip install pillow-heif") from None
            pillow_heif.register_heif_opener()
        with Image.open(file) as image:
            image.load()
    return image


@dataclass(frozen=True)
class FileReader:
    """Reads items that are paths relative to a folder. Absolute paths are read as they are.

    Args:
        base: the folder.
    """

    base: Path

    def __call__(self, item: str) -> Image.Image:
        return read_image(self.base / item)


def normalized(image: Image.Image, channels: int) -> Image.Image:
    """The image upright, with 8 bits a channel, on white where it is transparent; mode L or RGB.

    Raises:
        ValueError: for pixels that are floating point numbers or above 16 bits, whose range nothing tells.
        Exception: of nearly any kind, if the image is not read yet and its data are damaged.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
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


def in_colour(image: Image.Image) -> bool:
    """Whether an image of mode RGB shows colours, not grey alone or tinted."""
    return bool(np.ptp(np.asarray(image.resize((16, 16))), axis=2).mean() > TINT)


def to_pixels(
    image: Image.Image, size: Size, mode: ResizeMode, interpolation: Interpolation = "bilinear"
) -> UInt8Array:
    """Bring a normalized image to (H, W, C) uint8.

    Args:
        image: of mode L (C = 1) or RGB (C = 3).
        size: H and W of the result in pixels, or one number for both.
        mode: ``squash`` scales both sides to the size, whatever the image's shape (the paper's, for CUB and Cars);
            ``crop`` scales the image until it covers the size and takes the centre; ``pad`` cuts a white margin off,
            scales the rest until it fits in and pads with white (the paper's, for Stanford Online Products).
        interpolation: how pixels are made of others.
    """
    resample = Image.Resampling[interpolation.upper()]
    height, width = sides(size)
    if mode == "pad":
        return channels_last(padded(image.crop(content_box(image)), height, width, resample))
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode is {mode!r}, not one of {', '.join(RESIZE_MODES)}")
    w, h = float(image.width), float(image.height)
    if mode == "crop":
        w, h = min(w, h * width / height), min(h, w * height / width)
    left, top = (image.width - w) / 2, (image.height - h) / 2
    return channels_last(image.resize((width, height), resample, box=(left, top, left + w, top + h)))


def content_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not white; the whole of a white image."""
    dark = image.point([255 * (value < WHITE) for value in range(256)] * len(image.getbands()))
    return dark.getbbox() or (0, 0, *image.size)


def padded(image: Image.Image, height: int, width: int, resample: Image.Resampling) -> Image.Image:
    """Scale until it fits in, centred on white; unlike Pillow's, no side shrinks to nothing."""
    scale = min(width / image.width, height / image.height)
    w, h = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new(image.mode, (width, height), "white")
    canvas.paste(image.resize((w, h), resample), ((width - w) // 2, (height - h) // 2))
    return canvas


def channels_last(image: Image.Image) -> UInt8Array:
    """(H, W, C) pixels of an image of mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
