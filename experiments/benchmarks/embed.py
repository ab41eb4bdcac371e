"""`lifted embed` against the bare network on the same pixels: photographs of 224 px, SqueezeNet, this machine's CPU.

python experiments/benchmarks/embed.py --images 10000

Both sides take turns, a part of the images each: files to embeddings by `TrainedModel.embed`, then the network alone
on batches that are decoded, cropped and normalised before the clock starts. At last the whole command is timed once,
start-up included.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

import lifted_lightning
from lifted_lightning.inference.model import BATCH, build

SQUEEZENET = {
    "class_path": "lifted_lightning.training.networks.EmbeddingNetwork",
    "init_args": {"trunk": "squeezenet1_1", "pretrained": False, "embedding_size": 64},
}


def draw_photographs(folder: Path, count: int, side: int) -> list[Path]:
    """JPEG files with colours, edges and grain, of about the size that photographs have."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        blocks = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
        kind = Image.Resampling.NEAREST if number % 4 == 0 else Image.Resampling.BICUBIC
        grain = rng.integers(-8, 9, (side, side, 1))
        pixels = np.clip(np.asarray(blocks.resize((side, side), kind)) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number // 100:03}" / f"{number:05}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(paths[-1], quality=88)
    return paths


def save_checkpoint(path: Path, network: dict[str, Any]) -> None:
    """A checkpoint with random weights: how long it takes does not depend on them."""
    config = {
        "model": {"network": network, "augment": {"class_path": "lifted_lightning.data.augment.CropMirror"}},
        "data": {"size": 224, "resize": "squash", "channels": 3},
        "evaluation": {"distance": "euclidean"},
    }
    state = build(config, path).state_dict()
    torch.save({"state_dict": state, "lifted_config": yaml.safe_dump(config)}, path)


def main() -> None:
    """Time both sides in turn; print times, ratios and rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=1024, help="images of a turn")
    parser.add_argument("--side", type=int, default=224, help="of the JPEG files, in pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = draw_photographs(folder / "photos", options.images, options.side)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{len(paths)} files, {megabytes / len(paths) * 1000:.0f} kB each; {torch.get_num_threads()} threads")
        save_checkpoint(folder / "model.ckpt", SQUEEZENET)
        model = lifted_lightning.load(folder / "model.ckpt", "cpu")
        model.embed(paths[:BATCH])
        bare, whole = [], []
        for start in range(0, len(paths), options.part):
            part = paths[start : start + options.part]
            began = time.perf_counter()
            embeddings = model.embed(part)
            whole.append(time.perf_counter() - began)
            seconds, expected = time_network(model, part)
            bare.append(seconds)
            assert np.allclose(embeddings, expected, atol=1e-4)
        ratios = np.array(whole) / np.array(bare)
        print("| | seconds | images/s |\n|---|---|---|")
        for name, times in (("bare network", bare), ("TrainedModel.embed", whole)):
            print(f"| {name} | {sum(times):.1f} | {len(paths) / sum(times):.0f} |")
        began = time.perf_counter()
        command = [
            shutil.which("lifted") or sys.exit("lifted is not installed"),
            "embed",
            str(folder / "photos"),
        ]
        subprocess.run(
            [*command, "--ckpt", str(folder / "model.ckpt"), "--out", str(folder / "out.npz"), "--device", "cpu"],
            check=True, env=os.environ, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        print(f"| lifted embed, start-up included | {seconds:.1f} | {len(paths) / seconds:.0f} |")
        print(
            f"\nembed takes {np.median(ratios):.2f} times the bare network (median of {len(ratios)} turns, "
            f"{ratios.min():.2f} to {ratios.max():.2f}), {sum(whole) / sum(bare):.2f} in sum; the command takes "
            f"{seconds / sum(bare):.2f} times"
        )


@torch.inference_mode()
def time_network(model: lifted_lightning.TrainedModel, paths: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds that the network alone takes, and its embeddings."""
    seconds, parts = 0.0, []
    for start in range(0, len(paths), BATCH):
        pixels = np.stack([model.pixels(path) for path in paths[start : start + BATCH]])
        images = model.module.augment(torch.from_numpy(pixels).permute(0, 3, 1, 2), None)
        began = time.perf_counter()
        embeddings = model.module.network(images)
        seconds += time.perf_counter() - began
        parts.append(embeddings.numpy())
    return seconds, np.concatenate(parts)


if __name__ == "__main__":
    main()
