"""Checkpoints of untrained models, for tests of what uses a model."""

from pathlib import Path
from typing import Any

import torch
import yaml

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
