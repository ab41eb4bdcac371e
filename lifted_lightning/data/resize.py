"""From whatever image a file holds to uint8 pixels of one working size."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

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
