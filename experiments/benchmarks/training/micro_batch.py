"""Peak memory and time an image of global batch 2,048 in pieces of 128, against global batch 128.

python experiments/benchmarks/training/micro_batch.py
"""

import re
import statistics
from pathlib import Path

from shared import WARM_UP, Settings, Stopwatch, apart, images, line, measure, ours, trainer


def micro_batch(settings: Settings) -> None:
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


if __name__ == "__main__":
    measure(micro_batch, __doc__)
