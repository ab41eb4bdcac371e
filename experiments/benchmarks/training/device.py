"""Training GoogLeNet in bf16 at 227, batch 128, on a GPU, against forward and backward of the bare compiled network.

python experiments/benchmarks/training/device.py
"""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from shared import WARM_UP, Settings, images, in_turns, line, measure, ours, trainer

from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.networks import EmbeddingNetwork


def device(settings: Settings) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU")
    size, batch = (64, 16) if settings.small else (227, 128)
    bare = EmbeddingNetwork("googlenet", pretrained=False).to("cuda", memory_format=torch.channels_last)
    bare.compile()
    pixels = torch.randn(batch, 3, size, size, device="cuda").to(memory_format=torch.channels_last)

    def bare_rate() -> float:
        for step in range(settings.steps + WARM_UP):
            if step == WARM_UP:
                torch.cuda.synchronize()
                start = time.perf_counter()
            bare.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                embeddings = bare(pixels)
            embeddings.float().square().mean().backward()
        torch.cuda.synchronize()
        return settings.steps * batch / (time.perf_counter() - start)

    def our_rate() -> float:
        watch = Ends()
        fit = trainer(
            settings.steps + WARM_UP, watch, BatchDiagnostics(), precision="bf16-mixed", log_every_n_steps=20,
            accelerator="cuda", logger=MetricsFile(settings.folder),
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
            torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds


if __name__ == "__main__":
    measure(device, __doc__)
