"""What the defaults for photographs were chosen by: losses, heads and rates on a pretrained trunk, in validation.

    python experiments/checks/photographs.py --images cars/train --workers 8 --seconds 200 --out out

A plain loop with the package's own network, losses, batches, crops and ranking; the images lie in the device's memory.
Only classes that train are looked at: of the folders below --images a part validates, chosen as by `lifted fit`.
A stage starts from what the one before it found best; trials.csv gets a line as each trial ends. On a CPU ask for less:
--stages rates --only lifted --most 3.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lifted_lightning.data.augment import Augmentation, CropMirror, ResizedCrop
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datasets.own import ImageFolder
from lifted_lightning.data.pixels import Decoding, open_pixels
from lifted_lightning.data.table import split_training_rows
from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
from lifted_lightning.metrics.retrieval import retrieval_metrics
from lifted_lightning.training.networks import EmbeddingNetwork
from lifted_lightning.training.schedules import WarmupCosine

BATCH, SAMPLES, SIDE, CROP = 64, 4, 128, 112
SCALES = (1, 7, 10, 16, 24, 32)

Loss = Callable[[Tensor, Tensor], Tensor]


def multi_similarity(beta: float) -> Loss:
    from pytorch_metric_learning.losses import MultiSimilarityLoss

    return MultiSimilarityLoss(alpha=2.0, beta=beta, base=0.5)


# By family, the first word of a name. Lifted's are of 1/temperature, and of the margin in units of the temperature.
LOSSES: dict[str, Callable[[], Loss]] = {
    **{f"lifted {s} {m}": lambda s=s, m=m: LiftedStructureLoss(m / s, 1 / s) for s, m in product(SCALES, (1, 0, 3))},
    **{f"contrastive {m}": lambda m=m: ContrastiveLoss(m) for m in (0.5, 0.7, 0.9, 1.0, 1.1)},
    "squared 1.0": lambda: ContrastiveLoss(1.0, average="all", squared=True),
    **{f"triplet {m}": lambda m=m: TripletLoss(m) for m in (0.05, 0.1, 0.2, 0.3)},
    **{f"semihard {m}": lambda m=m: TripletLoss(m, mining="semihard") for m in (0.1, 0.2, 0.3)},
    **{f"hard {m}": lambda m=m: TripletLoss(m, mining="hard") for m in (0.1, 0.2, 0.3)},
    **{f"eq3 {m}": lambda m=m: LiftedStructureLoss(m, smooth=False) for m in (0.1, 0.3, 1.0)},
    **{f"multi-similarity {b}": lambda b=b: multi_similarity(b) for b in (20, 36, 50)},
}
MIDDLE = ["lifted 16 1", "contrastive 0.7", "semihard 0.2", "triplet 0.2", "multi-similarity 36", "hard 0.2", "eq3 0.3"]
FAMILIES = [*dict.fromkeys(name.split()[0] for name in (*MIDDLE, *LOSSES))]


@dataclass(frozen=True)
class Trial:
    """What one training run is made of."""

    loss: str
    lr: float = 1e-4
    head_factor: float = 10.0
    head: str = "orthonormal"  # rows at random angles where they are fewer than features; or principal, or random
    size: int = 512
    steps: int = 100
    seed: int = 0
    neighbours: float = 0.0
    crop: str = "mirror"  # or area
    share: float = 0.2  # of the classes: they validate
    decay: float = 1e-2


class Bench:
    """The images on a device, and how a trial is run on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        table = ImageFolder(str(options.images)).table(Path())
        self.table = replace(table, train=np.arange(len(table.labels)), test=np.arange(0))
        pixels = open_pixels(Decoding(self.table, SIDE))
        images = torch.from_numpy(np.asarray(pixels[np.arange(len(table.labels))]))
        self.pixels = images.to(self.device).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def embed(self, network: nn.Module, rows: np.ndarray, augment: Augmentation) -> Tensor:
        parts = torch.from_numpy(rows).to(self.device).split(512)
        with torch.autocast(self.device.type, torch.bfloat16):
            return torch.cat([network(augment(self.pixels[part])).float() for part in parts])

    def run(self, trial: Trial) -> dict[str, Any]:
        """Train, and rank the validation classes before and after."""
        began = time.perf_counter()
        torch.manual_seed(trial.seed)
        training, validating = split_training_rows(self.table, 0, trial.share)
        truth = torch.from_numpy(self.table.labels[validating]).to(self.device)
        labels = np.full(len(self.table.labels), -1)
        labels[training] = np.unique(self.table.labels[training], return_inverse=True)[1]
        classes = torch.from_numpy(labels).to(self.device)
        network = EmbeddingNetwork(
            self.options.trunk, embedding_size=trial.size, normalize=True, weights_file=self.options.weights,
            head="random" if trial.head == "random" else "orthonormal", freeze_batchnorm=True,
        ).to(self.device).eval()  # fmt: skip
        area = ResizedCrop(CROP, scale=(0.4, 1.0), ratio=(0.8, 1.25))
        augment = (area if trial.crop == "area" else CropMirror(CROP)).to(self.device)
        augment.match(network)
        if trial.head == "principal":
            some = np.random.default_rng(0).choice(training, min(1024, len(training)), replace=False)
            network.begin_head(self.embed(network.trunk, some, augment))
        before = retrieval_metrics(self.embed(network, validating, augment), truth, (1,))
        head = {"params": [*network.head.parameters()], "lr": trial.lr * trial.head_factor}
        trunk = {"params": [p for p in network.trunk.parameters() if p.requires_grad]}
        optimizer = torch.optim.AdamW([trunk, head], lr=trial.lr, weight_decay=trial.decay)
        steps = min(trial.steps, self.options.steps or trial.steps)
        schedule = WarmupCosine(optimizer, steps, warmup=0.1)
        batches = PositivePairs(SAMPLES, neighbours=trial.neighbours).bind(
            labels, batch_size=BATCH, seed=trial.seed, batches_per_epoch=steps, device=self.device
        )
        loss, value = LOSSES[trial.loss](), torch.zeros(())
        network.train()
        for step in range(steps):
            rows = torch.from_numpy(batches.global_batch(0, step)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                embeddings = network(augment(self.pixels[rows], augment.draw((trial.seed, 0, step), len(rows))))
            value = loss(embeddings.float(), classes[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            batches.record(rows, embeddings.detach().float())
        after = retrieval_metrics(self.embed(network.eval(), validating, augment), truth, (1,))
        figures = before["recall@1"], after["recall@1"], after["map@r"], float(value.detach())
        seconds = time.perf_counter() - began
        return asdict(trial) | dict(zip(FIGURES, (round(figure, 4) for figure in (*figures, seconds)), strict=True))


FIGURES = ("before", "recall@1", "map@r", "value", "seconds")
Results = list[dict[str, Any]]

# The stages: each gets the results before it, and gives the next trials, most wanted first.


def best(results: Results, **wanted: Any) -> list[Trial]:
    """Of each family the settings with the highest mean Recall@1, among trials that are as wanted."""
    scores: dict[Trial, list[float]] = {}
    for result in results:
        if all(result[key] == value for key, value in wanted.items()):
            trial = Trial(**{field.name: result[field.name] for field in fields(Trial)} | {"seed": 0})
            scores.setdefault(trial, []).append(result["recall@1"])
    in_order = sorted(scores, key=lambda trial: -sum(scores[trial]) / len(scores[trial]))
    winners = {trial.loss.split()[0]: trial for trial in reversed(in_order)}
    return [winners[family] for family in FAMILIES if family in winners]


def rates(results: Results) -> Iterable[Trial]:
    """Every loss in its middle form at several rates, the head at ten times the trunk's rate or at the same."""
    for head_factor, lr in ((10.0, 1e-4), (1.0, 3e-4), (10.0, 2e-4), (1.0, 1e-4), (10.0, 5e-5), (1.0, 6e-4)):
        yield from (Trial(loss, lr, head_factor) for loss in MIDDLE)
    yield from (Trial(loss, head="random") for loss in MIDDLE)


def forms(results: Results) -> Iterable[Trial]:
    """The other margins and temperatures of each loss, at its best rate."""
    for trial in best(results, head="orthonormal"):
        yield from (replace(trial, loss=name) for name in LOSSES if name.split()[0] == trial.loss.split()[0])
    yield Trial("squared 1.0")


def seeds(results: Results) -> Iterable[Trial]:
    """The best of each family after 100 and 400 steps, three seeds; then rates, batches, crops, a harder split."""
    winners = best(results, head="orthonormal", steps=100)
    for seed in range(3):
        yield from (replace(trial, steps=400, seed=seed) for trial in winners)
    for seed in (1, 2):
        yield from (replace(trial, seed=seed) for trial in winners)
    longer = [replace(trial, steps=400) for trial in winners[:5]]
    yield from (replace(trial, lr=factor * trial.lr) for factor in (2, 0.5) for trial in longer)
    yield from (replace(trial, neighbours=0.5) for trial in longer)
    yield from (replace(trial, share=0.5, neighbours=neighbours) for neighbours in (0, 0.5) for trial in longer)
    yield from (replace(trial, crop="area") for trial in longer)
    yield from (replace(trial, decay=0.1) for trial in longer)


def sizes(results: Results) -> Iterable[Trial]:
    """Heads of 64, 128 and 512 dimensions that begin at right angles, as principal axes, and at random."""
    for steps, seed, head in product((100, 400), range(3), ("orthonormal", "principal", "random")):
        for size, loss in product((64, 128, 512), ("lifted 10 1", "contrastive 1.0")):
            yield Trial(loss, steps=steps, seed=seed, head=head, size=size)


STAGES = {"rates": rates, "forms": forms, "seeds": seeds, "sizes": sizes}
bench: Bench  # of this process


def begin(options: argparse.Namespace) -> None:
    global bench
    torch.set_num_threads(1)
    bench = Bench(options)


def work(given: tuple[Trial, float]) -> dict[str, Any] | None:
    trial, until = given
    try:
        return bench.run(trial) if time.time() < until else None
    except Exception as error:  # one trial's, which is not to end the others
        print(f"{trial}: {type(error).__name__}: {error}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="one folder of images a class, all of which train")
    parser.add_argument("--trunk", default="squeezenet1_1")
    parser.add_argument("--weights", help="a state dict of the trunk; else they are downloaded")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--only", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--most", type=int, help="trials of a stage")
    parser.add_argument("--steps", type=int, help="of a trial at most, to see that it runs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    Bench(argparse.Namespace(**vars(options) | {"device": "cpu"}))  # builds the cache of images
    results: Results = []
    pool = torch.multiprocessing.get_context("spawn").Pool(options.workers, begin, (options,))
    with pool, (options.out / "trials.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*(field.name for field in fields(Trial)), *FIGURES])
        table.writeheader()
        for stage in options.stages:
            done = {Trial(**{field.name: result[field.name] for field in fields(Trial)}) for result in results}
            trials = [trial for trial in dict.fromkeys(STAGES[stage](results)) if trial not in done]
            trials = [trial for trial in trials if trial.loss.split()[0] in options.only][: options.most]
            for result in pool.imap_unordered(work, [(trial, began + options.seconds) for trial in trials]):
                if result is not None:
                    results.append(result)
                    table.writerow(result)
                    file.flush()
                    print(f"{time.time() - began:4.0f}", *result.values(), flush=True)


if __name__ == "__main__":
    main()
