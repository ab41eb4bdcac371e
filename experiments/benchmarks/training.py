"""What training costs besides the network: the step, the ranks, checkpoints, micro batches.

    python experiments/benchmarks/training.py                                # ten minutes on two quiet cores
    python experiments/benchmarks/training.py --only peers                   # needs LIFTED_DATA_DIR with Cars-196
    python experiments/benchmarks/training.py --only device --device cuda    # on a GPU
    python experiments/benchmarks/training.py --small                        # does it run at all?

Prints one line of a Markdown table for each figure. The two sides of a ratio run in turns on the same images, and a
figure is the median of ``--repeats`` turns.
"""

import argparse
import multiprocessing
import os
import re
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
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lifted_lightning.callbacks.checkpoints import AtomicCheckpointIO
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.commands.fit import quiet
from lifted_lightning.data.augment import IMAGENET_MEAN, IMAGENET_STD, CropMirror
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.datasets.cars196 import Cars196
from lifted_lightning.data.table import ImageTable
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import EmbeddingNetwork

WARM_UP = 3  # steps that are not counted


@dataclass
class Settings:
    """From the command line."""

    steps: int
    repeats: int
    device: str
    small: bool
    folder: Path


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
        batch_size=batch, size=size, batches_per_epoch=1000,
    )  # fmt: skip


def line(what: str, value: float, unit: str, target: str, of: str) -> None:
    print(f"| {what} | {value:.3g}{unit} | {target} | {of} |", flush=True)


# The figures


def overhead(settings: Settings) -> None:
    """The share of a step that is not forward, backward and update of ResNet-18 at 224, batch 64."""
    size, batch = (64, 16) if settings.small else (224, 64)
    watch = Stopwatch()
    logger = MetricsFile(settings.folder)
    fit = trainer(settings.steps + WARM_UP, watch, BatchDiagnostics(), logger=logger, log_every_n_steps=20)
    fit.fit(ours("resnet18", size), datamodule=images(settings, batch, size + size // 8))
    step, network = statistics.median(watch.steps), statistics.median(watch.network)
    share = 100 * (1 - sum(watch.network) / sum(watch.steps))
    line(
        "not the network, share of a step",
        share,
        " %",
        "≤ 5 %",
        f"step {step:.3g} s, network {network:.3g} s",
    )


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


def class_folders(settings: Settings, table: ImageTable, root: Path) -> Path:
    """Cars-196's training images as ImageFolder wants them: one folder a class, of links."""
    folder = settings.folder / "cars"
    for row in table.train:
        link = folder / f"{table.labels[row]:03d}" / f"{row}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((root / table.items[row]).resolve())
    return folder


def peers(settings: Settings) -> None:
    """Images a second against plain Lightning, on Cars-196, SqueezeNet at 112, batch 128, two workers each.

    That the cache decodes each image once, before the first step, is not counted.
    """
    root, batch = data_root(), 32 if settings.small else 128
    folder = class_folders(settings, Cars196().table(root), root)

    def fit(module: LightningModule, **data: Any) -> float:
        watch = Stopwatch()
        trainer(settings.steps + WARM_UP, watch).fit(module, **data)
        return batch / statistics.mean(watch.steps)

    def with_cache(workers: int) -> float:
        data = images(settings, batch, 128, dataset=Cars196(), root=str(root), workers=workers)
        return fit(ours("squeezenet1_1", 112), datamodule=data)

    rates = in_turns(
        {
            "plain": lambda: fit(Plain("squeezenet1_1"), train_dataloaders=folder_loader(folder, batch, 112)),
            "two workers": lambda: with_cache(2),
            "a thread": lambda: with_cache(0),
        },
        settings.repeats,
    )
    for side in ("two workers", "a thread"):
        of = f"{rates[side]:.0f} against {rates['plain']:.0f} images a second"
        line(
            f"images a second against plain Lightning, {side}",
            rates[side] / rates["plain"],
            "×",
            "≥ 1.5×",
            of,
        )


def ranks(settings: Settings) -> None:
    """Two processes of one thread against one process of two."""
    size, batch = (64, 16) if settings.small else (112, 64)
    rates = in_turns(
        {
            "two": lambda: batch / apart(_rank, 2, settings, size, batch)[0],
            "one": lambda: batch / apart(_rank, 1, settings, size, batch)[0],
        },
        settings.repeats,
    )
    of = f"{rates['two']:.1f} against {rates['one']:.1f} images a second"
    line("two processes against two threads", rates["two"] / rates["one"], "×", "≥ 0.9×", of)


def _rank(rank: int, world_size: int, settings: Settings, size: int, batch: int) -> float:
    torch.set_num_threads(2 // world_size)
    seed_everything(0)
    watch = Stopwatch()
    fit = trainer(settings.steps + WARM_UP, watch, devices=world_size, strategy="ddp" if world_size > 1 else "auto")
    fit.fit(ours("resnet18", size), datamodule=images(settings, batch, size + 16))
    return statistics.mean(watch.steps)


def checkpoint(settings: Settings) -> None:
    """How long a step is held up by a checkpoint of ResNet-18 with AdamW, against writing as many bytes."""
    fit = trainer(2, plugins=[AtomicCheckpointIO()])
    fit.fit(ours("resnet18", 64), datamodule=images(settings, 16, 64))
    saved, plain = settings.folder / "saved.ckpt", settings.folder / "plain.bin"
    fit.save_checkpoint(saved)
    content = os.urandom(saved.stat().st_size)

    def write() -> float:
        start = time.perf_counter()
        with open(plain, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - start

    def save() -> float:
        start = time.perf_counter()
        fit.save_checkpoint(saved)
        return time.perf_counter() - start

    for _ in range(3):  # the first find no file in their place, and memory that the system has not used yet
        save(), write()
    seconds = in_turns({"save": save, "write": write}, 3 * settings.repeats)
    of = f"{len(content) / 1e6:.0f} MB in {seconds['save']:.2f} s against {seconds['write']:.2f} s"
    line("a checkpoint holds a step up", seconds["save"] / seconds["write"], "×", "≤ 2×", of)


def micro_batch(settings: Settings) -> None:
    """Peak memory and time an image of global batch 2,048 in pieces of 128, against global batch 128."""
    small, large, size = (32, 128, 32) if settings.small else (128, 2048, 64)
    (idle,) = apart(_memory, 1, settings, 0, small, size)
    (one,) = apart(_memory, 1, settings, small, small, size)
    (many,) = apart(_memory, 1, settings, large, small, size)
    of = f"{many[0]:.0f} MB against {one[0]:.0f} MB, of which {idle[0]:.0f} MB before training"
    line(f"peak memory, batch {large:,} against {small}", many[0] / one[0], "×", "≤ 1.3×", of)
    of = f"{1e3 * many[1]:.2f} ms against {1e3 * one[1]:.2f} ms"
    line("time an image", many[1] / one[1], "×", "≤ 1.5×", of)


def _memory(rank: int, world_size: int, settings: Settings, batch: int, piece: int, size: int) -> tuple[float, float]:
    """Peak resident megabytes of a process that trains so, and seconds an image."""
    seconds = 0.0
    module, data = ours("resnet18", size, micro_batch=piece), images(settings, batch or piece, size)
    data.setup("fit")
    if batch:
        watch = Stopwatch()
        steps = max(2, settings.steps * piece // batch)
        trainer(steps + WARM_UP, watch).fit(module, datamodule=data)
        seconds = statistics.mean(watch.steps) / batch
    status = Path("/proc/self/status").read_text()  # rusage would begin with the parent's peak
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024, seconds  # type: ignore[index]


def device(settings: Settings) -> None:
    """Training GoogLeNet in bf16 at 227, batch 128, against forward and backward of the bare compiled network."""
    if settings.device != "cuda" or not torch.cuda.is_available():
        print("device: left out, for it needs a GPU and --device cuda", flush=True)
        return
    size, batch = (64, 16) if settings.small else (227, 128)
    bare = EmbeddingNetwork("googlenet", pretrained=False).to(settings.device, memory_format=torch.channels_last)
    bare.compile()
    pixels = torch.randn(batch, 3, size, size, device=settings.device).to(memory_format=torch.channels_last)

    def bare_rate() -> float:
        for step in range(settings.steps + WARM_UP):
            if step == WARM_UP:
                synchronize(settings)
                start = time.perf_counter()
            bare.zero_grad()
            with torch.autocast(settings.device, torch.bfloat16):
                embeddings = bare(pixels)
            embeddings.float().square().mean().backward()
        synchronize(settings)
        return settings.steps * batch / (time.perf_counter() - start)

    def our_rate() -> float:
        watch = Ends()
        fit = trainer(
            settings.steps + WARM_UP, watch, BatchDiagnostics(), precision="bf16-mixed", log_every_n_steps=20,
            accelerator=settings.device, logger=MetricsFile(settings.folder),
        )  # fmt: skip
        fit.fit(ours("googlenet", size, compile=True), datamodule=images(settings, batch, size + 29))
        return settings.steps * batch / watch.seconds

    rates = in_turns({"bare": bare_rate, "ours": our_rate}, settings.repeats)
    of = f"{rates['ours']:,.0f} against {rates['bare']:,.0f} images a second"
    line("training against the bare network", rates["ours"] / rates["bare"], "×", "≥ 0.9×", of)


class Ends(Callback):
    """Seconds from the end of warming up to the end of training, with no waiting for the device in between."""

    seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds


def synchronize(settings: Settings) -> None:
    if settings.device == "cuda":
        torch.cuda.synchronize()


# Processes, and turns


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


FIGURES = {f.__name__: f for f in (overhead, peers, ranks, checkpoint, micro_batch, device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FIGURES, help="these figures; by default all but device")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    print("| figure | measured | target | of |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(given.steps, given.repeats, given.device, given.small, Path(folder))
        for name in given.only or [name for name in FIGURES if name != "device"]:
            seed_everything(0)
            FIGURES[name](settings)


if __name__ == "__main__":
    main()
