"""A folder of images of all shapes and kinds."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_images(folder: Path, classes: int = 4, images: int = 5) -> list[str]:
    """Photographs of random blocks, alike within a class, of all shapes and kinds; gives their paths, in order."""
    paths = []
    for label in range(classes):
        blocks = np.random.default_rng(label).integers(0, 255, (4, 5, 3))
        for number in range(images):
            rng = np.random.default_rng((label, number))
            noisy = np.clip(blocks + rng.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((30 + 7 * number, 40 - 3 * number), Image.Resampling.BICUBIC)
            ending = ("png", "jpg", "png", "bmp", "jpg")[number % 5]
            if number == 2:
                image.putalpha(128)
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1  # held upright
            paths.append(folder / f"class {label}" / f"{number}.{ending}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            image.save(paths[-1], **({"exif": exif} if ending == "jpg" else {}))
    return [str(path) for path in paths]
