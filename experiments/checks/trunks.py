"""Whether a trunk of each family is trained, gone on with, shared by two processes, embedded, halved and compiled.

python -m experiments.checks.trunks               # the whole table; timm's smallest of each family, random weights
python -m experiments.checks.trunks --only DINO

Each row is a run of two steps, by experiments/photographs.yaml with SGD, on drawn images at a size that is not the
trunk's own. Stochastic depth, which Swin has, is left out: like dropout it draws other numbers on each process.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lifted_lightning
from lifted_lightning.errors import one_line
from lifted_lightning.runs.embeddings import read_embeddings
from tests.helpers import faults
from tests.helpers.images import draw_images
from tests.helpers.lifted import lifted

RECIPE = Path(__file__).parents[1] / "photographs.yaml"
FAMILIES: dict[str, tuple[str, int]] = {  # the smallest of timm's, and the side of the images
    "ResNet": ("resnet10t", 112),
    "ConvNeXt": ("convnext_atto", 112),
    "EfficientNet": ("tf_efficientnet_lite0", 112),
    "ViT": ("vit_tiny_patch16_224", 112),
    "DINOv2": ("vit_small_patch14_dinov2", 112),
    "DINOv2, registers": ("vit_small_patch14_reg4_dinov2", 112),
    "DINOv3": ("vit_small_patch16_dinov3", 112),
    "CLIP": ("vit_base_patch32_clip_224", 96),
    "SigLIP": ("vit_base_patch16_siglip_224", 112),
    "BEiT": ("beit_base_patch16_224", 112),
    "Swin": ("swin_tiny_patch4_window7_224", 112),
    "EVA": ("eva02_tiny_patch14_224", 112),
}
COMPILED = ("ResNet", "ViT", "DINOv2")  # the others are not: it takes a CPU a minute and more each


class Family:
    """The runs of one family, each in a folder of its own.

    Args:
        place: a folder for all of it.
        trunk: timm's name.
        side: of the images, in pixels.
        more: further options of each run.
    """

    def __init__(self, place: Path, trunk: str, side: int, *more: str) -> None:
        self.place = place
        self.paths = draw_images(place / "images", classes=12, images=4)
        self.line = [
            "fit", f"--config={RECIPE}", f"--data.dataset.path={place / 'images'}", f"--data.size={side + 8}",
            f"--model.network.trunk=timm:{trunk}", "--model.network.pretrained=false",
            "--model.network.embedding_size=16", "--model.network.head=random", f"--model.augment.size={side}",
            "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--data.batch_size=8", "--data.batches_per_epoch=2",
            "--data.sampler.samples_per_class=2", "--trainer.precision=32-true", "--trainer.max_steps=2",
            "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--last_checkpoint.every_n_steps=1",
            "--tsne.every_n=0", "--gallery.every_n=0", "--confusions.every_n=0", "--evaluation.clustering=none",
            "--evaluation.baseline=false",
            "--experiment=e", *more,
        ]  # fmt: skip

    def run(self, name: str, *more: str, ranks: int = 1, moment: tuple[str, int] | None = None) -> Path:
        """A run with more options, killed at a moment if there is one; gives its folder.

        Raises:
            RuntimeError: if it ends otherwise than it should.
        """
        folder = self.place / "e" / name
        first = [*self.line, f"--runs_dir={self.place}", f"--name={name}", f"--trainer.devices={ranks}"]
        self._lifted([*(more if more[:1] in (("fit",), ("predict",)) else (*first, *more))], ranks, moment)
        return folder

    def _lifted(self, line: list[str], ranks: int = 1, moment: tuple[str, int] | None = None) -> None:
        run = lifted(line, self.place, ranks, [partial(prepare, moment)] * ranks)
        if run.wait(220)[-1] != (-signal.SIGKILL if moment else 0):
            raise RuntimeError(f"{line[0]} ended with {run.codes}: {run.output[-600:]}")

    def fit(self) -> str:
        """Two steps, and the test."""
        self.whole = weights(self.run("whole"))
        return "yes"

    def resume(self) -> str:
        """Killed in the second step, and gone on with: to the last bit as the unbroken run."""
        folder = self.run("killed", moment=("step", 2))
        self.half = weights(folder)
        self.run("killed", "fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last")
        return "equal" if torch.equal(weights(folder), self.whole) else "NOT equal"

    def two_ranks(self) -> str:
        """How far two processes end from one, as a share of the length of the second step."""
        found = weights(self.run("ranks", ranks=2))
        return f"{(found - self.whole).norm() / (self.whole - self.half).norm():.0e}"

    def embed(self) -> str:
        """How far a checkpoint without a trainer embeds from `lifted predict`: the largest difference."""
        config = self.place / "e" / "whole" / "config.yaml"
        folder = self.run("predicted", "predict", f"--config={config}", "--ckpt_path=last", "--name=predicted")
        index = read_embeddings(folder / "embeddings.npz")
        model = lifted_lightning.load(config.parent / "checkpoints" / "last.ckpt", "cpu")
        found = model.embed([index.file(row) for row in range(len(index))])
        return f"{np.abs(found - index.embeddings).max():.0e}"

    def half_precision(self) -> str:
        """Two steps in bfloat16, and the test."""
        return "yes" if weights(self.run("half", "--trainer.precision=bf16-mixed")).isfinite().all() else "NOT finite"

    def compiled(self) -> str:
        """How far a compiled network ends from one that is not, as a share of the second step's length."""
        found = weights(self.run("compiled", "--model.compile=true"))
        return f"{(found - self.whole).norm() / (self.whole - self.half).norm():.0e}"


def prepare(moment: tuple[str, int] | None) -> None:
    """In a process of a run: without stochastic depth, and killed at the moment."""
    from timm.layers import DropPath

    DropPath.forward = lambda self, x: x
    if moment is not None:
        faults.at(*moment)()


def weights(folder: Path) -> Tensor:
    """All parameters of a run's last checkpoint, one after the other, in float64."""
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.double().flatten() for value in state.values()])


CHECKS: dict[str, Callable[[Family], str]] = {
    "fit": Family.fit, "resume": Family.resume, "two ranks": Family.two_ranks, "embed": Family.embed,
    "bf16-mixed": Family.half_precision, "compile": Family.compiled,
}  # fmt: skip


def checked(name: str, place: Path) -> Iterator[str]:
    """The cells of a row."""
    trunk, side = FAMILIES[name]
    family = Family(place, trunk, side)
    for column, check in CHECKS.items():
        try:
            yield "–" if column == "compile" and name not in COMPILED else check(family)
        except Exception as error:
            yield f"FAILS: {one_line(error, 900)}"


def main() -> None:
    """Print a row of the table for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only families whose name has this regular expression")
    only = parser.parse_args().only
    print(f"| family | trunk | side | {' | '.join(CHECKS)} |\n|:--|:--|--:|{'--:|' * len(CHECKS)}")
    with tempfile.TemporaryDirectory(prefix="trunks-") as top:
        os.environ["LIFTED_CACHE_DIR"] = f"{top}/cache"
        for name, (trunk, side) in FAMILIES.items():
            if re.search(only, name):
                place = Path(top, trunk)
                print(f"| {name} | {trunk} | {side} | {' | '.join(checked(name, place))} |", flush=True)
                shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
