"""A trained model for use: a checkpoint's network without a trainer, embedding image files or images."""

import os
import pkgutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from lifted_lightning.data.augment import Augmentation
from lifted_lightning.data.images import (
    Interpolation,
    ResizeMode,
    Size,
    UInt8Array,
    image_or_error,
    read_image,
    sides,
    to_pixels,
)
from lifted_lightning.data.pixels import Steps
from lifted_lightning.errors import UserError, one_line
from lifted_lightning.runs.checkpoint import SETTINGS_KEY, checkpoints_beside, file_sha256, load_checkpoint
from lifted_lightning.training.lora import TRUNK_KEY, is_frozen
from lifted_lightning.training.networks import Embedder

AnyImage = str | os.PathLike[str] | Image.Image | UInt8Array
FloatArray = npt.NDArray[np.float32]

NEEDED = {"model": ("network", "augment"), "data": ("size", "resize", "channels"), "evaluation": ("distance",)}
WITHOUT = {"pretrained": False, "weights_file": None}  # settings of a network that gets its weights elsewhere
BATCH = 64  # images that pass the network at a time


def load(checkpoint: str | os.PathLike[str], device: str = "auto") -> "TrainedModel":
    """Load a checkpoint of ``lifted fit``, which says itself what network it is of and how images are read.

    Or the ``.adapter`` file beside one of a run with LoRA: the trunk's own weights are then looked for where the run
    had them, and in ``LIFTED_WEIGHTS_DIR``, or downloaded.

    Nothing in it is unpickled. A network of one's own must be importable, as it was in training.

    Args:
        checkpoint: the file, ``runs/.../checkpoints/best.ckpt`` for example.
        device: ``auto`` (CUDA if there is any, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        UserError: if it is no such file, its network cannot be imported, there is no such device, or an adapter is of
            another trunk.
    """
    path = Path(checkpoint)
    if not path.is_file():
        there = checkpoints_beside(path)
        raise UserError(f"{path}: no such checkpoint{there}; give a file such as runs/.../checkpoints/best.ckpt")
    where = find_device(device)
    saved = load_checkpoint(path)
    try:
        config = yaml.safe_load(saved[SETTINGS_KEY])
        for part, keys in NEEDED.items():
            _ = [config[part][key] for key in keys]
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is not a checkpoint of lifted fit: it does not say what network it is of") from error
    weights = {name: value for name, value in saved["state_dict"].items() if not name.startswith("loss.")}
    alone = TRUNK_KEY in saved and not any(map(is_frozen, weights))
    module = build(config, path, with_trunk=not alone)
    if alone:
        if (found := str(getattr(module.network, "trunk_digest", None))) != saved[TRUNK_KEY]:
            raise UserError(
                f"{path}: was learnt on another trunk than is found here (SHA-256 {saved[TRUNK_KEY][:12]}, here "
                f"{found[:12]}); put its weights where the run had them, or into LIFTED_WEIGHTS_DIR"
            )
        weights |= {name: value for name, value in module.state_dict().items() if is_frozen(name)}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit its network, which has changed ({one_line(error)})") from error
    return TrainedModel(module.eval().to(where), config, path, where)


class TrainedModel:
    """Embeds images as the evaluation of its training run did, but in float32 whatever ``trainer.precision`` was.

    Made by ``lifted_lightning.load``, which imports the classes that the checkpoint names.

    Attributes:
        module: uint8 images (B, C, H, W) to embeddings (B, D): evaluation's crop, normalisation and network.
        path: of the checkpoint.
        sha256: of the checkpoint file.
        device: where it computes.
        size: in pixels, that an image is brought to: a side, or height and width.
        resize: how it comes to that shape, see ``data.images.to_pixels``.
        interpolation: how pixels are made of others there.
        channels: 1 for grey, 3 for colour.
        distance: by which its embeddings were evaluated, ``euclidean`` or ``cosine``.
        embedding_size: D.
    """

    def __init__(self, module: nn.Module, config: dict[str, Any], path: Path, device: torch.device) -> None:
        self.module = module
        self.path = path
        self.sha256 = file_sha256(path)
        self.device = device
        self.size: Size = config["data"]["size"]
        self.resize: ResizeMode = config["data"]["resize"]
        self.interpolation: Interpolation = config["data"].get("interpolation", "bilinear")  # of older runs
        self.channels: int = config["data"]["channels"]
        self.distance: str = config["evaluation"]["distance"]
        black = np.zeros((1, *sides(self.size, f"{path}: size"), self.channels), dtype=np.uint8)
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
            following = pool.map(self.pixels, images[:BATCH])
            for start in range(0, len(images), BATCH):
                decoded, following = following, pool.map(self.pixels, images[start + BATCH : start + 2 * BATCH])
                found = dict(enumerate(decoded, start))
                read = {row: image for row, image in found.items() if not isinstance(image, UserError)}
                if read:
                    into[list(read)] = self._embed_pixels(np.stack([*read.values()])).numpy()
                yield len(found), [(row, str(error)) for row, error in found.items() if row not in read]
        finally:
            pool.shutdown(cancel_futures=True)

    def pixels(self, image: AnyImage) -> UInt8Array | UserError:
        """An image as (H, W, C) uint8, as the pixel cache has it; an error if it cannot be read."""
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "an image"
        found = image_or_error(lambda: as_image(image), name, self.channels)
        return found if isinstance(found, UserError) else to_pixels(found, self.size, self.resize, self.interpolation)

    @torch.inference_mode()
    def _embed_pixels(self, pixels: UInt8Array) -> Tensor:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)
        return self.module(images).float().cpu()


def as_image(image: AnyImage) -> Image.Image:
    """A path's or an array's image."""
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)


def find_device(name: str) -> torch.device:
    """The device of this name, or CUDA if there is any and else the CPU for ``auto``.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name}: cannot be used here ({one_line(error, 120)}); use auto or cpu") from error
    return device


class Evaluation(nn.Module):
    """What ``EmbeddingModule`` does with images in evaluation, without importing Lightning.

    Args:
        network: float images (B, C, H, W) to embeddings (B, D).
        augment: called without random numbers: crops the centre and normalises.
    """

    def __init__(self, network: nn.Module, augment: Augmentation) -> None:
        super().__init__()
        self.network = network
        self.augment = augment

    def forward(self, images: Tensor) -> Tensor:
        """Embed uint8 images (B, C, H, W). Returns (B, D)."""
        return self.network(self.augment(images, None))


def build(config: dict[str, Any], path: Path, with_trunk: bool = True) -> nn.Module:
    """The module that a run's configuration describes, without its loss; weights are only looked for as a trunk's.

    Raises:
        UserError: if a class that it names cannot be imported or made; ``path`` is the checkpoint, for the message.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    settings = {**config["model"], "network": without_weights(config["model"]["network"], with_trunk)}
    parser = ArgumentParser(exit_on_error=False)
    try:
        if config.get("model_class") is None:
            parser.add_argument("--network", type=nn.Module)
            parser.add_argument("--augment", type=Augmentation)
            made = parser.instantiate(parser.parse_object({key: settings[key] for key in ("network", "augment")}))
            module: Any = Evaluation(made["network"], made["augment"])
        else:
            kind = own_class(config["model_class"])
            unused = {"loss", "optimizer", "scheduler"}
            parser.add_class_arguments(kind, "model", skip=unused, instantiate=False)
            kept = {key: value for key, value in settings.items() if key not in unused}
            made = parser.instantiate(parser.parse_object({"model": kept}))
            module = kind(**vars(made["model"]), loss=nn.Identity())
    except (ArgumentError, ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its network cannot be made here ({one_line(error, 300)}); go to the folder that its run began in"
        ) from error
    module.augment.match(module.network, sides(config["data"]["size"], f"{path}: size"))
    return module


def own_class(path: str) -> type[nn.Module]:
    """The class of a module that overrides this package's.

    Raises:
        ImportError, AttributeError, ValueError: if it cannot be imported.
        TypeError: if it is none, so that a foreign checkpoint has nothing else called.
    """
    kind = pkgutil.resolve_name(path)
    # By name, for EmbeddingModule itself would bring Lightning with it.
    names = (f"{c.__module__}.{c.__qualname__}" for c in getattr(kind, "__mro__", ()))
    if not (isinstance(kind, type) and "lifted_lightning.training.module.EmbeddingModule" in names):
        raise TypeError(f"{path} is no subclass of lifted_lightning.training.module.EmbeddingModule")
    return kind


def without_weights(network: dict[str, Any], with_trunk: bool = True) -> dict[str, Any]:
    """The configuration of a network that gets a checkpoint's weights: it needs no others, or the trunk's alone."""
    try:
        kind = pkgutil.resolve_name(network["class_path"])
    except (ImportError, AttributeError, ValueError):
        return network  # the parser says what is wrong with it
    if not (isinstance(kind, type) and issubclass(kind, Embedder)):
        return network
    settings = {**network.get("init_args", {})}
    if with_trunk:
        settings.update({key: value for key, value in WITHOUT.items() if key in settings})
    elif not Path(os.path.expandvars(settings.get("weights_file") or "")).is_file():  # nor is there the run's own file
        settings.update(pretrained=True, weights_file=None)
    return {**network, "init_args": settings}
