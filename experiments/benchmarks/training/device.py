"""Training on a device against the bare network, and where a step waits. Run by `experiments/benchmarks/gpu.py`."""

import statistics
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from training.shared import Settings, images, trainer

from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork

WARM_UP = 5  # steps that are not counted


class Turns(Callback):
    """Times windows of training in bf16, and between them as many steps of the bare network, in one process.

    Training is what a user runs: batches from cached pixels, augmentation, the loss, the optimiser, Lightning, and
    figures of the batch every 20 steps. The bare network has one batch already on the device, and goes forward and
    backward.

    Args:
        device: ``cuda`` or ``cpu``.
        trunk: a trunk of `EmbeddingNetwork`, or ``ConvNet``.
        batch: images a step.
        side: of the square images, in pixels.
        compiled: whether both networks, and the loss, are.
        steps: of a window.
        windows: how many each side has.
        folder: where pixels are cached.
    """

    def __init__(
        self, device: str, trunk: str, batch: int, side: int, compiled: bool, steps: int, windows: int, folder: Path
    ) -> None:
        self.device, self.batch, self.steps, self.last = device, batch, steps, WARM_UP + steps * windows
        self.bare = network(trunk).to(device, memory_format=torch.channels_last)
        if compiled:
            self.bare.compile()
        pixels = torch.randn(batch, 3, side, side, device=device)
        self.pixels = pixels.to(memory_format=torch.channels_last)
        self.module = EmbeddingModule(network(trunk), LiftedStructureLoss(), CropMirror(side), compile=compiled)
        self.data = cached(folder, batch, side)
        self.settings = {"precision": "bf16-mixed", "logger": MetricsFile(folder), "log_every_n_steps": 20}
        self.seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.since = 0.0

    def rates(self) -> tuple[float, float]:
        """Images a second of training and of the bare network, medians over the windows."""
        torch.backends.cudnn.benchmark = True
        self.bare_steps(WARM_UP)
        fit = trainer(self.last, self, BatchDiagnostics(), accelerator=self.device, **self.settings)
        fit.fit(self.module, datamodule=self.data)
        images = self.steps * self.batch
        return images / statistics.median(self.seconds), images / statistics.median(self.bare_seconds)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        step = trainer.global_step - WARM_UP
        if step < 0 or step % self.steps:
            return
        wait(self.device)
        if step:
            self.seconds.append(time.perf_counter() - self.since)
        if trainer.global_step < self.last:
            self.bare_seconds.append(self.bare_steps(self.steps))
        self.since = time.perf_counter()

    def bare_steps(self, count: int) -> float:
        wait(self.device)
        start = time.perf_counter()
        for _ in range(count):
            self.bare.zero_grad()
            with torch.autocast(self.device, torch.bfloat16):
                embeddings = self.bare(self.pixels)
            embeddings.float().square().mean().backward()
        wait(self.device)
        return time.perf_counter() - start


class Alarm(Callback):
    """Has torch warn of each waiting for the device, from the fourth step on."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        if index >= 3 and trainer.strategy.root_device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def waits(device: str, batch: int, side: int, folder: Path) -> Counter[str]:
    """The lines at which five steps of a ConvNet wait for the device, and how often."""
    with warnings.catch_warnings(record=True) as caught:
        fit = trainer(8, Alarm(), accelerator=device)
        warnings.simplefilter("always")
        module = EmbeddingModule(network("ConvNet"), LiftedStructureLoss(), CropMirror(side))
        fit.fit(module, datamodule=cached(folder, batch, side))
    return Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message))


def network(trunk: str) -> nn.Module:
    return ConvNet(channels=3) if trunk == "ConvNet" else EmbeddingNetwork(trunk, pretrained=False, embedding_size=512)


def cached(folder: Path, batch: int, side: int) -> Any:
    """Noise to train on, cached a seventh larger than it is cropped to: 256 pixels for 224."""
    return images(Settings(0, 0, False, folder), batch, side + side // 7)


def wait(device: str) -> None:
    """Until the device has done all that was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
