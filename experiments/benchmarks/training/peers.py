"""Images a second against plain Lightning, on Cars-196 (below LIFTED_DATA_DIR), SqueezeNet at 112, batch 128.

Each side in a process of its own. That the cache decodes each image once, before the first step, is not counted.

python experiments/benchmarks/training/peers.py
"""

import statistics
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, seed_everything
from shared import WARM_UP, Settings, Stopwatch, apart, images, in_turns, line, measure, ours, trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lifted_lightning.data.augment import IMAGENET_MEAN, IMAGENET_STD
from lifted_lightning.data.datasets.base import data_root
from lifted_lightning.data.datasets.cars196 import Cars196
from lifted_lightning.data.table import ImageTable
from lifted_lightning.training.networks import EmbeddingNetwork


class Plain(LightningModule):
    """What one writes with plain Lightning and pytorch-metric-learning."""

    def __init__(self, trunk: str) -> None:
        super().__init__()
        from pytorch_metric_learning import distances, losses

        self.embed = EmbeddingNetwork(trunk, pretrained=False)
        distance = distances.LpDistance(normalize_embeddings=False)
        self.loss = losses.LiftedStructureLoss(neg_margin=1.0, distance=distance)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.loss(self.embed(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def folder_loader(folder: Path, batch: int, size: int) -> DataLoader:
    from pytorch_metric_learning.samplers import MPerClassSampler

    steps = [transforms.Resize((128, 128)), transforms.RandomCrop(size), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    data = ImageFolder(str(folder), transforms.Compose(steps))
    sampler = MPerClassSampler(data.targets, m=4, batch_size=batch, length_before_new_iter=batch * 1000)
    return DataLoader(data, batch, sampler=sampler, num_workers=2, persistent_workers=True, drop_last=True)


def class_folders(settings: Settings, table: ImageTable, root: Path) -> None:
    """Cars-196's training images as ImageFolder wants them: one folder a class, of links."""
    folder = settings.folder / "cars"
    for row in table.train:
        link = folder / f"{table.labels[row]:03d}" / f"{row}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((root / table.items[row]).resolve())


def peers(settings: Settings) -> None:
    class_folders(settings, Cars196().table(data_root()), data_root())
    sides = ("plain", "two workers", "a thread")
    rates = in_turns({side: partial(_rate_apart, settings, side) for side in sides}, settings.repeats)
    for side in sides[1:]:
        of = f"{rates[side]:.0f} against {rates['plain']:.0f} images a second"
        figure = f"images a second against plain Lightning, {side}"
        line(figure, rates[side] / rates["plain"], "×", "≥ 1.6×", of)


def _rate_apart(settings: Settings, side: str) -> float:
    """Images a second of one side, in a process of its own: memory is kept in ours, and in no other's."""
    return apart(_rate, 1, settings, side)[0]


def _rate(rank: int, world_size: int, settings: Settings, side: str) -> float:
    seed_everything(0)
    watch, batch = Stopwatch(), 32 if settings.small else 128
    fit = trainer(settings.steps + WARM_UP, watch)
    if side == "plain":
        fit.fit(Plain("squeezenet1_1"), folder_loader(settings.folder / "cars", batch, 112))
    else:
        workers = 2 if side == "two workers" else 0
        data = images(settings, batch, 128, dataset=Cars196(), root=str(data_root()), workers=workers)
        fit.fit(ours("squeezenet1_1", 112), datamodule=data)
    return batch / statistics.mean(watch.steps)


if __name__ == "__main__":
    measure(peers, __doc__)
