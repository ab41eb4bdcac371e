"""How fast images arrive: the pixel cache against torchvision's ImageFolder, PIL, RandomCrop and flip.

    export LIFTED_DATA_DIR=...                                    # with Cars-196 and Omniglot
    python experiments/benchmarks/input.py                        # a few minutes on two quiet cores
    python experiments/benchmarks/input.py --device cuda          # with GoogLeNet, bf16, batch 128

Prints Markdown tables. Both sides of a comparison run in turns in one process, on the same images, from the
second epoch on; a figure is the median of ``--repeats`` turns.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lifted_lightning.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datasets.base import data_root
from lifted_lightning.data.datasets.cars196 import Cars196
from lifted_lightning.data.datasets.glyphs import Glyphs
from lifted_lightning.data.datasets.omniglot import Omniglot
from lifted_lightning.data.loading import PixelRows, PrefetchLoader, as_batch
from lifted_lightning.data.pixels import Decoding, Pixels, open_pixels
from lifted_lightning.data.table import ImageTable
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork

BATCH = 128
# Data set, the folder that ImageFolder walks, working size, crop, channels.
SETS = {
    "Cars-196 crops": (Cars196(), "stanford_cars", 144, 128, 3),
    "Omniglot": (Omniglot(), "omniglot-py/images_background", 105, 96, 1),
}


def rate(batches: Iterable[Tensor], images: int) -> float:
    """Images a second of one pass."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return images / (time.perf_counter() - start)


def in_turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Medians of each side's figure; the first turn warms up."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, measure in sides.items():
            figure = measure()
            if turn:
                figures[name].append(figure)
    return {name: statistics.median(values) for name, values in figures.items()}


def folder_loader(root: Path, crop: int, workers: int, images: int, channels: int, floats: bool) -> DataLoader:
    """What one writes with torchvision; ``floats`` adds conversion and normalisation, done by the workers."""
    steps: list[Callable] = [transforms.RandomCrop(crop), transforms.RandomHorizontalFlip()]
    if channels == 1:
        steps.insert(0, transforms.Grayscale())
    if floats:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
        steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    else:
        steps.append(transforms.PILToTensor())
    folder = ImageFolder(str(root), transforms.Compose(steps), allow_empty=True)
    chosen = Subset(folder, np.linspace(0, len(folder) - 1, images).astype(int).tolist())
    return DataLoader(chosen, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)


def cached(kind: type[DataLoader], rows: Dataset, workers: int = 0) -> DataLoader:
    # A generator of its own: the thread of PrefetchLoader must not share torch's.
    order = RandomSampler(rows, generator=torch.Generator().manual_seed(0))
    return kind(
        rows, BATCH, sampler=order, num_workers=workers, persistent_workers=workers > 0,
        collate_fn=as_batch, drop_last=True,
    )  # fmt: skip


def augmented(loader: DataLoader, augment: Augmentation | None) -> Iterator[Tensor]:
    for step, batch in enumerate(loader):
        images = batch["images"]
        yield augment(images, augment.draw((0, 0, step), BATCH)) if augment is not None else images


def loading(root: Path, workers: int, images: int, repeats: int) -> None:
    print(f"\nImages a second, batch {BATCH}, {workers} workers for torchvision\n")
    print("| data | what arrives | torchvision | thread | no worker | workers | thread / torchvision |")
    print("|---|---|---|---|---|---|---|")
    for name, (dataset, folder, size, crop, channels) in SETS.items():
        table = dataset.table(root)
        pixels = open_pixels(Decoding(table, size, channels=channels))
        rows = PixelRows(pixels, table.labels)
        count = len(table) // BATCH * BATCH
        augment = CropMirror(crop)
        loaders = {
            "thread": cached(PrefetchLoader, rows),
            "none": cached(DataLoader, rows),
            "workers": cached(DataLoader, rows, workers),
        }
        for floats in (False, True):
            plain = folder_loader(root / folder, crop, workers, images, channels, floats)
            sides = {"torchvision": lambda p=plain: rate(p, images // BATCH * BATCH)}
            for side, loader in loaders.items():
                # Bytes: what the step is handed. Floats: after crop, mirror and normalisation on the CPU.
                applied = augment if floats else None
                sides[side] = lambda x=loader, a=applied, n=count: rate(augmented(x, a), n)
            r = in_turns(sides, repeats)
            arrives = "floats, augmented on this CPU" if floats else "bytes, to be augmented on the device"
            figures = " | ".join(f"{r[side]:,.0f}" for side in ("torchvision", *loaders))
            print(f"| {name} | {arrives} | {figures} | {r['thread'] / r['torchvision']:.1f} |", flush=True)


def first_epoch(root: Path, repeats: int) -> None:
    """What the checksums cost: the first epoch checks each block of the cache file, the second one none."""
    print("\nImages a second from the cache, warm, with its checks (first epoch) and without (second)\n")
    print("| data | what arrives | first | second | second / first |\n|---|---|---|---|---|")
    for name, (dataset, _, size, crop, channels) in SETS.items():
        table = dataset.table(root)
        count = len(table) // BATCH * BATCH
        for arrives, augment in (("bytes", None), ("floats, augmented on this CPU", CropMirror(crop))):
            loaders: list[DataLoader] = []

            def first(
                table: ImageTable = table,
                size: int = size,
                channels: int = channels,
                augment: Augmentation | None = augment,
                loaders: list[DataLoader] = loaders,
                count: int = count,
            ) -> float:
                pixels = open_pixels(Decoding(table, size, channels=channels))
                loaders[:] = [cached(PrefetchLoader, PixelRows(pixels, table.labels))]
                return rate(augmented(loaders[0], augment), count)

            def second(
                augment: Augmentation | None = augment, loaders: list[DataLoader] = loaders, count: int = count
            ) -> float:
                return rate(augmented(loaders[0], augment), count)

            r = in_turns({"first": first, "second": second}, repeats)
            print(f"| {name} | {arrives} | {r['first']:,.0f} | {r['second']:,.0f} | {r['second'] / r['first']:.2f} |")


def building(root: Path, workers: int, images: int, repeats: int) -> None:
    print(f"\nBuilding the cache, {workers} processes, images a second\n")
    print("| data | plain PIL loop | cache | ratio |\n|---|---|---|---|")
    for name, (dataset, _, size, _, channels) in SETS.items():
        whole = dataset.table(root)
        table = first_rows(whole, min(4 * images, len(whole)))

        def loop(table: ImageTable = table, size: int = size, channels: int = channels) -> float:
            start = time.perf_counter()
            pixels = np.empty((len(table), size, size, channels), dtype=np.uint8)
            for row, item in enumerate(table.items):
                image = Image.open(root / item).convert("RGB" if channels == 3 else "L")
                resized = image.resize((size, size), Image.Resampling.BILINEAR)
                pixels[row] = np.asarray(resized).reshape(size, size, channels)
            return len(table) / (time.perf_counter() - start)

        def cache(table: ImageTable = table, size: int = size, channels: int = channels) -> float:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                open_pixels(Decoding(table, size, channels=channels), Path(folder), workers)
                return len(table) / (time.perf_counter() - start)

        r = in_turns({"loop": loop, "cache": cache}, repeats)
        print(f"| {name} | {r['loop']:,.0f} | {r['cache']:,.0f} | {r['cache'] / r['loop']:.2f} |", flush=True)


def first_rows(table: ImageTable, count: int) -> ImageTable:
    """A table of some of the images, evenly chosen."""
    chosen = np.linspace(0, len(table) - 1, count).astype(int)
    labels, rows = table.labels[chosen], np.arange(count)
    train = np.isin(chosen, table.train)
    items = [table.items[row] for row in chosen]
    return ImageTable(table.name, labels, table.class_names, rows[train], rows[~train], items, table.reader, table.key)


def own_megabytes(pid: int) -> float:
    """Memory of a process that no other can use: what it wrote. Pages of the cache file are the system's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def memory(root: Path) -> None:
    print("\nMemory of its own that a loader's worker has after reading a set twice, MB\n")
    print("| data | images | pixels | a worker |\n|---|---|---|---|")
    dataset, _, size, _, channels = SETS["Cars-196 crops"]
    table = dataset.table(root)
    pixels = open_pixels(Decoding(table, size, channels=channels))
    for share in (16, 4, 1):
        rows = Subset(PixelRows(pixels, table.labels), range(len(table) // share))
        loader = cached(DataLoader, rows, workers=1)
        for _ in range(2):
            for batch in loader:
                del batch
        used = own_megabytes(loader._iterator._workers[0].pid)
        megabytes = len(rows) * size * size * channels / 2**20
        print(f"| Cars-196 crops | {len(rows):,} | {megabytes:,.0f} | {used:.0f} |", flush=True)


def training_rows(pixels: Pixels, table: ImageTable, steps: int) -> tuple[PixelRows, PositivePairs]:
    labels = np.where(np.isin(np.arange(len(table)), table.train), table.labels, -1)
    sampler = PositivePairs(neighbours=0).bind(labels, batch_size=BATCH, batches_per_epoch=steps)
    return PixelRows(pixels, table.labels), sampler


def waiting(root: Path, steps: int) -> None:
    """The quickstart's step on the CPU: Glyphs, ConvNet, lifted structure loss."""
    table = Glyphs().table(root)
    rows, sampler = training_rows(open_pixels(Decoding(table, 32, channels=1)), table, steps)
    network, loss, augment = ConvNet(), LiftedStructureLoss(), CropMirror(mirror=False)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    batches = iter(DataLoader(rows, batch_sampler=sampler, collate_fn=as_batch))
    waited, start = 0.0, time.perf_counter()
    for step in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        images = augment(batch["images"], augment.draw((0, 0, step), BATCH))
        optimizer.zero_grad()
        loss(network(images), batch["labels"]).backward()
        optimizer.step()
    share = waited / (time.perf_counter() - start)
    print(f"\nConvNet on Glyphs, CPU, batch {BATCH}: {share:.2%} of {steps} steps spent waiting for data")


def on_device(root: Path, steps: int, repeats: int) -> None:
    """GoogLeNet's step in bf16 on cached Cars-196 images, against the same step on one fixed batch."""
    table = Cars196().table(root)
    rows, sampler = training_rows(open_pixels(Decoding(table, 256)), table, steps)
    device = torch.device("cuda")
    network = EmbeddingNetwork("googlenet", pretrained=False).to(device, memory_format=torch.channels_last)
    loss, augment = LiftedStructureLoss(), CropMirror(227).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    loader = PrefetchLoader(rows, batch_sampler=sampler, collate_fn=as_batch, pin_memory=True)

    def step(batch: dict[str, Tensor], number: int) -> None:
        images = augment(batch["images"], augment.draw((0, 0, number), BATCH))
        with torch.autocast("cuda", torch.bfloat16):
            embeddings = network(images)
        optimizer.zero_grad()
        loss(embeddings.float(), batch["labels"]).backward()
        optimizer.step()

    def run(batches: Iterable[dict[str, Tensor]]) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            step({name: value.to(device, non_blocking=True) for name, value in batch.items()}, number)
        torch.cuda.synchronize()
        return steps * BATCH / (time.perf_counter() - start)

    fixed = {name: value.to(device) for name, value in next(iter(loader)).items()}
    r = in_turns({"cached": lambda: run(islice(loader, steps)), "fixed": lambda: run([fixed] * steps)}, repeats)
    print(f"\nGoogLeNet, bf16, batch {BATCH}, {torch.cuda.get_device_name()}")
    print(f"cached: {r['cached']:,.0f} images/s; one batch on the device: {r['fixed']:,.0f} images/s")
    print(f"ratio: {r['cached'] / r['fixed']:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes, for both sides")
    parser.add_argument("--images", type=int, default=3840, help="images in a turn of torchvision's side")
    parser.add_argument("--steps", type=int, default=50, help="training steps in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    root = data_root()
    cores = len(os.sched_getaffinity(0))
    print(f"torch {torch.__version__}, {cores} cores, {torch.get_num_threads()} threads")
    if options.device == "cuda":
        on_device(root, options.steps, options.repeats)
        return
    loading(root, options.workers, options.images, options.repeats)
    first_epoch(root, options.repeats)
    building(root, options.workers, options.images, options.repeats)
    memory(root)
    waiting(root, options.steps)


if __name__ == "__main__":
    main()
