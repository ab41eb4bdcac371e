"""The share of a training step that is not forward, backward and update of ResNet-18 at 224, batch 64.

python experiments/benchmarks/training/overhead.py
"""

import statistics

from shared import WARM_UP, Settings, Stopwatch, images, line, measure, ours, trainer

from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.runs.loggers import MetricsFile


def overhead(settings: Settings) -> None:
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


if __name__ == "__main__":
    measure(overhead, __doc__)
