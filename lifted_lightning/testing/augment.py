"""What training takes for granted of an augmentation: an image's fate is its own draws' alone, on any rank."""

import math

import torch
from torch import Tensor

from lifted_lightning.data.augment import Augmentation
from lifted_lightning.data.images import Size, sides
from lifted_lightning.testing.findings import Answer, ContractError, Findings, check_tensor, copied

ROWS = 12
KEY = (1, 2, 3)  # seed, epoch and step


def check_augment(augment: Augmentation, channels: int = 3, size: Size | None = None) -> Findings:
    """Ask an augmentation all that training and evaluation expect of one; it stays as it is.

    Args:
        augment: the augmentation.
        channels: of the images that it is tried on.
        size: of them, a side in pixels or ``[height, width]``; None: an eighth more than it gives, or 64.

    Returns:
        A finding for each question; one only where it gives no images.
    """
    height, width = sides(size or augment.size or 64)
    more = 1 if size or not augment.size else 9 / 8
    tried = _Augment(augment, channels, (math.ceil(more * height), math.ceil(more * width)))
    findings = Findings(type(augment).__name__)
    if findings.ask("gives finite images of one size, and leaves those given as they are", tried.gives_images):
        findings.ask("draws nothing but what it is given, and nothing in evaluation", tried.repeats)
        findings.ask("an image is the same whatever else is in the batch or on another rank", tried.slices)
        findings.ask("other images, steps, epochs, seeds and views are drawn otherwise", tried.varies)
    return findings


class _Augment:
    """An augmentation, a copy of which is tried on random images."""

    def __init__(self, augment: Augmentation, channels: int, size: tuple[int, int]) -> None:
        random = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (ROWS, channels, *size), dtype=torch.uint8, generator=random)
        self.augment = copied(augment)

    def trained(self, images: Tensor, key: tuple[int, ...] = KEY) -> Tensor:
        return self.augment(images, self.augment.draw(key, len(images)))

    def gives_images(self) -> str:
        height, width = self.augment.size or self.images.shape[2:]
        images, draws = self.images.clone(), self.augment.draw(KEY, ROWS)
        before = draws.clone()
        for mode, given in (("training", draws), ("evaluation", None)):
            wanted = (ROWS, self.images.shape[1], height, width)
            check_tensor(self.augment(images, given), wanted, self.augment.mean.dtype, mode)
            if not torch.equal(images, self.images) or not torch.equal(draws, before):
                raise ContractError(f"{mode}: writes into what it is given, which may be the cache's")
        return f"{height} x {width} of {self.images.shape[2]} x {self.images.shape[3]}"

    def repeats(self) -> None:
        for mode, make in (("training", self.trained), ("evaluation", self.augment)):
            if not torch.equal(make(self.images), make(self.images)):
                raise ContractError(f"{mode}: draws by itself, so that a resumed run sees other images")

    def slices(self) -> None:
        draws, whole, evaluated = self.augment.draw(KEY, ROWS), self.trained(self.images), self.augment(self.images)
        for ranks in (2, 3, ROWS):
            for rows in (slice(start, start + ROWS // ranks) for start in range(0, ROWS, ROWS // ranks)):
                if not torch.equal(self.augment(self.images[rows], draws[rows]), whole[rows]):
                    raise ContractError(f"training: rows {rows.start} to {rows.stop - 1} of {ROWS} alone are others")
                if not torch.equal(self.augment(self.images[rows]), evaluated[rows]):
                    raise ContractError(f"evaluation: rows {rows.start} to {rows.stop - 1} of {ROWS} alone are others")

    def varies(self) -> Answer:
        one = self.images[:1].expand(ROWS, -1, -1, -1)
        made = self.trained(one)
        keys = {"step": (1, 2, 4), "epoch": (1, 3, 3), "seed": (2, 2, 3), "view": (*KEY, 1)}
        same = ["image"] if (made == made[:1]).all() else []
        same += [name for name, key in keys.items() if torch.equal(self.trained(one, key), made)]
        if len(same) == 1 + len(keys):
            return "told", "nothing is random"
        if same:
            raise ContractError(f"the same draws for every {', '.join(same)}")
        return None
