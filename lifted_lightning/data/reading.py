"""Reading one image file, whatever its kind, and readers that find files below a folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lifted_lightning.data.resize import flattened
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
