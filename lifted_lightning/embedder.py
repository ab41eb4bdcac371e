"""A trained model for use: a checkpoint's network without a trainer, embedding image files or images."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from lifted_lightning import runs
from lifted_lightning.checks import load_checkpoint
from lifted_lightning.data.decode import Steps
from lifted_lightning.data.reading import read_image
from lifted_lightning.data.resize import ResizeMode, UInt8Array, to_pixels
from lifted_lightning.errors import UserError
from lifted_lightning.restore import build

AnyImage = str | os.PathLike[str] | Image.Image | UInt8Array
FloatArray = npt.NDArray[np.float32]

BATCH = 64  # images that pass the network at a time
AHEAD = 1  # batches that are decoded while another passes the network


def load(checkpoint: str | os.PathLike[str], device: str = "auto") -> "TrainedModel":
    """Load a checkpoint of ``lifted fit``, which says itself what network it is of and how images are read.

    Nothing in it is unpickled. A network of one's own must be importable, as it was in training.

    Args:
        checkpoint: the file, ``runs/.../checkpoints/best.ckpt`` for example.
        device: ``auto`` (CUDA if there is any, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        UserError: if it is no such file, its network cannot be imported, or there is no such device.
    """
    path = Path(checkpoint)
    if not path.is_file():
        there = runs.checkpoints_beside(path)
        raise UserError(
            f"{path}: no such checkpoint{there}; give a file such as runs/.../checkpoints/best.ckpt"
        )
    where = find_device(device)
    saved = load_checkpoint(path)
    if not isinstance(saved.get("lifted_config"), str):
        raise UserError(f"{path}: is not a checkpoint of lifted fit: it does not say what network it is of")
    config = yaml.safe_load(saved["lifted_config"])
    module = build(config, path)
    weights = {name: value for name, value in saved["state_dict"].items() if not name.startswith("loss.")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: its weights do not fit its network, which has changed ({reason})"
        ) from error
    return TrainedModel(module.eval().to(where), config, path, where)


class TrainedModel:
    """Embeds images as the evaluation of its training run did, but in float32 whatever ``trainer.precision`` was.

    Made by ``lifted_lightning.load``, which imports the classes that the checkpoint names.

    Attributes:
        module: uint8 images (B, C, H, W) to embeddings (B, D): evaluation's crop, normalisation and network.
        path: of the checkpoint.
        sha256: of the checkpoint file.
        device: where it computes.
        size: side in pixels that an image is brought to.
        resize: how it becomes square, see ``data.resize.to_pixels``.
        channels: 1 for grey, 3 for colour.
        distance: by which its embeddings were evaluated, ``euclidean`` or ``cosine``.
        embedding_size: D.
    """

    def __init__(self, module: nn.Module, config: dict[str, Any], path: Path, device: torch.device) -> None:
        self.module = module
        self.path = path
        self.sha256 = file_sha256(path)
        self.device = device
        self.size: int = config["data"]["size"]
        self.resize: ResizeMode = config["data"]["resize"]
        self.channels: int = config["data"]["channels"]
        self.distance: str = config["evaluation"]["distance"]
        black = np.zeros((1, self.size, self.size, self.channels), dtype=np.uint8)
        self.embedding_size: int = self._embed_pixels(black).shape[1]

    def embed(self, images: AnyImage | Sequence[AnyImage]) -> FloatArray:
        """Embed images.

        Args:
            images: N paths, PIL images or uint8 arrays (H, W), (H, W, 1) or (H, W, 3); or a single one. They
                may differ in size.

        Returns:
            (N, D) float32.

        Raises:
            UserError: naming a file that cannot be read.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 4) < 4:
            images = [images]  # type: ignore[list-item]
        embeddings = np.empty((len(images), self.embedding_size), dtype=np.float32)
        for _, broken in self.steps(images, embeddings):  # type: ignore[arg-type]
            if broken:
                raise UserError(broken[0][1])
        return embeddings

    def steps(self, images: Sequence[AnyImage], into: FloatArray) -> Steps:
        """Embed images batch by batch, while threads decode the next ones.

        Args:
            images: N, as for ``embed``.
            into: (N, D), where embeddings are written; rows of images that cannot be read are left as they are.

        Yields:
            after each batch how many images it had, and which rows cannot be read, and why.
        """
        pool = ThreadPoolExecutor()
        try:
            for start, pixels in self._decoded(images, pool):
                read, broken = [], []
                for row, image in enumerate(pixels, start):
                    if isinstance(image, UserError):
                        broken.append((row, str(image)))
                    else:
                        read.append(row)
                if read:
                    batch = np.stack([image for image in pixels if not isinstance(image, UserError)])
                    into[read] = self._embed_pixels(batch).numpy()
                yield len(pixels), broken
        finally:
            pool.shutdown(cancel_futures=True)

    def _decoded(
        self, images: Sequence[AnyImage], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[UInt8Array | UserError]]]:
        """For each batch its first row, and pixels (size, size, C) or an error for each of its images."""
        waiting: deque[tuple[int, list[Future[UInt8Array | UserError]]]] = deque()
        for start in range(0, len(images), BATCH):
            batch = [images[row] for row in range(start, min(start + BATCH, len(images)))]
            waiting.append((start, [pool.submit(self.pixels, image) for image in batch]))
            if len(waiting) > AHEAD:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in waiting:
            yield first, [future.result() for future in futures]

    def pixels(self, image: AnyImage) -> UInt8Array | UserError:
        """An image as (size, size, C) uint8, as the pixel cache has it; an error if it cannot be read."""
        name = "an image"
        try:
            if isinstance(image, str | os.PathLike):
                name = os.fspath(image)
                image = read_image(image)
            elif not isinstance(image, Image.Image):
                image = Image.fromarray(
                    image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image
                )
            return to_pixels(image, self.size, self.resize, self.channels)
        except UserError as error:
            return error
        except (OSError, ValueError, SyntaxError) as error:
            return UserError(f"{name}: cannot be decoded ({' '.join(str(error).split())[:150]})")

    @torch.inference_mode()
    def _embed_pixels(self, pixels: UInt8Array) -> Tensor:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)
        return self.module(images).float().cpu()


def find_device(name: str) -> torch.device:
    """The device of this name, or CUDA if there is any and else the CPU for ``auto``.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"device {name}: cannot be used here ({reason}); use auto or cpu") from error
    return device


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
