"""Images and checkpoints in miniature, for tests of what uses a model: no training is needed for that."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from lifted_lightning.inference.model import build

CONVNET = {
    "class_path": "lifted_lightning.training.networks.ConvNet",
    "init_args": {"embedding_size": 5, "channels": 3, "width": 2},
}
CROP = {"class_path": "lifted_lightning.data.augment.CropMirror", "init_args": {"size": 20}}


def save_checkpoint(path: Path, model: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A checkpoint as ``lifted fit`` writes it, of an untrained model.

    Args:
        path: where to.
        model: what differs in the configuration of the model; ``model_class`` is given apart.
        settings: ``model_class``, ``distance``, and of the data ``size``, ``resize``, ``channels``.
    """
    network = {"network": CONVNET, "augment": CROP, "loss": {"class_path": "torch.nn.Identity"}, "seed": 3}
    config = {
        "model_class": settings.pop("model_class", None),
        "evaluation": {"distance": settings.pop("distance", "euclidean")},
        "model": {**network, **(model or {})},
        "data": {"size": 24, "resize": "squash", "channels": 3, **settings},
    }
    torch.manual_seed(1)
    state = build(config, path).state_dict()
    for name, value in state.items():  # a new network gives nearly the same to all images
        if name.endswith("running_var"):
            value.fill_(0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    state["loss.proxies"] = torch.zeros(2)
    torch.save({"state_dict": state, "lifted_config": yaml.safe_dump(config)}, path)
    return path


def draw_images(folder: Path, classes: int = 4, images: int = 5) -> list[str]:
    """Photographs of random blocks, alike within a class, of all shapes and kinds; gives their paths, in order."""
    paths = []
    for label in range(classes):
        blocks = np.random.default_rng(label).integers(0, 255, (4, 5, 3))
        for number in range(images):
            rng = np.random.default_rng((label, number))
            noisy = np.clip(blocks + rng.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((30 + 7 * number, 40 - 3 * number), Image.Resampling.BICUBIC)
            ending = ("png", "jpg", "png", "bmp", "jpg")[number % 5]
            if number == 2:
                image.putalpha(128)
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1  # held upright
            paths.append(folder / f"class {label}" / f"{number}.{ending}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            image.save(paths[-1], **({"exif": exif} if ending == "jpg" else {}))
    return [str(path) for path in paths]
