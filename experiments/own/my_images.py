"""A data set of one's own: lifted fit --config ../quickstart.yaml --data.dataset=my_images.Shapes"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lifted_lightning import ImageTable, RetrievalDataset


class Shapes(RetrievalDataset):
    """Stars with 3, 4, 5, ... points, drawn at random angles and sizes; those with few points train, the others test.

    Images of files need no reader of their own: ``self.files(folder, images)`` makes the table.

    Args:
        classes: how many kinds of stars.
        images: of each kind.
    """

    name = "shapes"
    title = "Shapes"

    def __init__(self, classes: int = 24, images: int = 16) -> None:
        self.classes = classes
        self.images = images

    def table(self, root: Path) -> ImageTable:
        """The table; nothing is read below the data root."""
        labels = np.repeat(np.arange(self.classes), self.images)
        trains = labels < self.classes // 2
        return ImageTable(
            name=self.name,
            labels=labels,
            class_names=[f"{c + 3} points" for c in range(self.classes)],
            train=np.flatnonzero(trains),
            test=np.flatnonzero(~trains),
            items=[f"{c}/{i}" for c in range(self.classes) for i in range(self.images)],
            reader=draw_star,
            key="shapes-1",
        )


def draw_star(item: str) -> Image.Image:
    """The image of an item, ``class/number``: 40 x 40 pixels, grey."""
    label, number = map(int, item.split("/"))
    rng = np.random.default_rng((label, number))
    points = 2 * (label + 3)
    angles = rng.uniform(0, 2 * np.pi) + np.arange(points) * 2 * np.pi / points
    radii = np.where(np.arange(points) % 2, 0.5, 1.0) * rng.uniform(12, 19)
    image = Image.new("L", (40, 40), "white")
    corners = np.stack([20 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in corners], fill="black")
    return image
