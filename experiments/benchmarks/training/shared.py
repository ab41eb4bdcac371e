"""What the measures of training share: a data set, a stopwatch, turns, processes of their own, and the options."""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor, nn

from lifted_lightning.commands.lightning import quiet
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.datasets.base import RetrievalDataset
from lifted_lightning.data.table import ImageTable
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import EmbeddingNetwork

WARM_UP = 3  # steps that are not counted


@dataclass
class Settings:
    """From the command line."""

    steps: int
    repeats: int
    small: bool
    folder: Path


def measure(figure: Callable[[Settings], None], about: str | None) -> None:
    """Run a script's measure with the options that all of them have; it prints lines of a Markdown table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side, of which the median counts")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    seed_everything(0)
    print("| figure | measured | target | of |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        figure(Settings(given.steps, given.repeats, given.small, Path(folder)))


class Noise(RetrievalDataset):
    """Images without a sense, in as many classes as a batch needs: 64 pixels, enlarged when they are cached."""

    name = "noise"
    title = "Noise"

    def table(self, root: Path) -> ImageTable:
        labels = np.repeat(np.arange(520), 4)
        rows = np.arange(len(labels))
        return ImageTable(
            self.name, labels, [str(c) for c in range(520)], rows[: 516 * 4], rows[516 * 4 :],
            [str(row) for row in rows], noise, "noise-1",
        )  # fmt: skip


def noise(item: str) -> Image.Image:
    return Image.fromarray(np.random.default_rng(int(item)).integers(0, 256, (64, 64, 3), dtype=np.uint8))


class Stopwatch(Callback):
    """Times the steps after the first few, and within them the network and its optimiser."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.network: list[float] = []
        self._marks: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        network = getattr(pl_module, "network", None)
        if network is not None:
            network.register_forward_pre_hook(lambda *_: self._mark("forward"))
            network.register_forward_hook(self._after_forward)
            trainer.optimizers[0].register_step_post_hook(lambda *_: self._mark("updated"))

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._mark("update")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        m, now = self._marks, time.perf_counter()
        if trainer.global_step > WARM_UP and "step" in m:
            self.steps.append(now - m["step"])
            if "updated" in m:
                backward = m["gradient is there"] - m["gradient comes"]
                self.network.append(m["forwarded"] - m["forward"] + backward + m["updated"] - m["update"])
        m["step"] = now

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        self._mark("gradient is there")

    def _after_forward(self, network: nn.Module, inputs: Any, embeddings: Tensor) -> None:
        self._mark("forwarded")
        embeddings.register_hook(lambda _: self._mark("gradient comes"))

    def _mark(self, name: str) -> None:
        self._marks[name] = time.perf_counter()


def trainer(steps: int, *callbacks: Callback, **more: Any) -> Trainer:
    quiet()  # in this process, which may be one of several
    settings = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "limit_val_batches": 0, "use_distributed_sampler": False,
    }  # fmt: skip
    return Trainer(max_steps=steps, callbacks=list(callbacks), **settings | more)


def ours(trunk: str, size: int, **more: Any) -> EmbeddingModule:
    return EmbeddingModule(EmbeddingNetwork(trunk, pretrained=False), LiftedStructureLoss(), CropMirror(size), **more)


def images(settings: Settings, batch: int, size: int, **more: Any) -> RetrievalDataModule:
    return RetrievalDataModule(
        **{"dataset": Noise(), "cache_dir": str(settings.folder / "cache"), "validation_share": 0.0} | more,
        sampler=PositivePairs(), batch_size=batch, size=size, batches_per_epoch=1000,
    )  # fmt: skip


def line(what: str, value: float, unit: str, target: str, of: str) -> None:
    print(f"| {what} | {value:.3g}{unit} | {target} | {of} |", flush=True)


def in_turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of each side's figure, the sides taking turns."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            figures[name].append(side())
    return {name: statistics.median(values) for name, values in figures.items()}


def apart(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """What ``function(rank, world_size, *args)`` returns in fresh processes, set up as torchrun would."""
    context = multiprocessing.get_context("spawn")
    queue, port = context.Queue(), 20000 + os.getpid() % 20000 + int(time.time()) % 1000
    processes = [
        context.Process(target=_apart, args=(queue, function, rank, world_size, port, *args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    answers = dict(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return [answers[rank] for rank in range(world_size)]


def _apart(queue: Any, function: Callable[..., Any], rank: int, world_size: int, port: int, *args: Any) -> None:
    if world_size > 1:
        names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        values = (rank, rank, 0, world_size, world_size)
        os.environ |= {name: str(value) for name, value in zip(names, values, strict=True)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "0"}
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    queue.put((rank, function(rank, world_size, *args)))
