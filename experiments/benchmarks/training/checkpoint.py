"""How long a training step is held up by a checkpoint of ResNet-18 with AdamW, against writing as many bytes.

python experiments/benchmarks/training/checkpoint.py
"""

import os
import time

from shared import Settings, images, in_turns, line, measure, ours, trainer

from lifted_lightning.callbacks.checkpoints import AtomicCheckpointIO


def checkpoint(settings: Settings) -> None:
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


if __name__ == "__main__":
    measure(checkpoint, __doc__)
