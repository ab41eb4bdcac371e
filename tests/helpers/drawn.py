"""A table of images that are drawn when they are read, and notes which were; imports nothing of torch."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lifted_lightning.data.table import ImageTable

COUNT = 300


class Reader:
    """Draws item i in a colour of its own and notes that it did in a file; chosen items misbehave."""

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        self.log = log
        self.pause = pause

    def __call__(self, item: str) -> Image.Image:
        with self.log.open("a") as stream:
            stream.write(f"{item}\n")
        if (self.log.parent / f"broken {item}").exists():
            raise OSError("image file is truncated")
        if (self.log.parent / f"deadly {item}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        number = int(item.split()[-1])
        return Image.new("RGB", (10, 6), (number % 256, number // 256, 77))

    def count(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def make_table(folder: Path, count: int = COUNT, key: str = "one", **options: float) -> ImageTable:
    """``count`` images in 10 classes, of which half train."""
    labels = np.arange(count) % 10
    order = np.arange(count)
    return ImageTable(
        name="toy set",
        labels=labels,
        class_names=[f"c{i}" for i in range(10)],
        train=order[labels < 5],
        test=order[labels >= 5],
        items=[f"ä b/image {i}" if i == 7 else f"image {i}" for i in range(count)],
        reader=Reader(folder / "log", **options),
        key=key,
    )
