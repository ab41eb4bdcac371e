"""Training by two processes of one thread against one process of two.

python experiments/benchmarks/training/ranks.py
"""

import statistics

import torch
from pytorch_lightning import seed_everything
from shared import WARM_UP, Settings, Stopwatch, apart, images, in_turns, line, measure, ours, trainer


def ranks(settings: Settings) -> None:
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


if __name__ == "__main__":
    measure(ranks, __doc__)
