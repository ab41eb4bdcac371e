"""The network of a run, made again from its configuration: no trainer, no loss, no download."""

import pkgutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lifted_lightning.data.augment import Augmentation
from lifted_lightning.errors import UserError
from lifted_lightning.networks import EmbeddingNetwork

WITHOUT = {"pretrained": False, "weights_file": None}  # settings of a network that gets its weights elsewhere


class Evaluation(nn.Module):
    """What ``EmbeddingModule`` does with images in evaluation, without importing Lightning.

    Args:
        network: float images (B, C, H, W) to embeddings (B, D).
        augment: called without random numbers: crops the centre and normalises.
    """

    def __init__(self, network: nn.Module, augment: Augmentation) -> None:
        super().__init__()
        augment.match(network)
        self.network = network
        self.augment = augment

    def forward(self, images: Tensor) -> Tensor:
        """Embed uint8 images (B, C, H, W). Returns (B, D)."""
        return self.network(self.augment(images, None))


def build(config: dict[str, Any], path: Path) -> nn.Module:
    """The module that a run's configuration describes, without its loss, and without downloading weights.

    Raises:
        UserError: if a class that it names cannot be imported or made; ``path`` is the checkpoint, for the message.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    settings = {**config["model"], "network": without_weights(config["model"]["network"])}
    parser = ArgumentParser(exit_on_error=False)
    try:
        if config.get("model_class") is None:
            parser.add_argument("--network", type=nn.Module)
            parser.add_argument("--augment", type=Augmentation)
            made = parser.instantiate(
                parser.parse_object({key: settings[key] for key in ("network", "augment")})
            )
            return Evaluation(made["network"], made["augment"])
        kind = own_class(config["model_class"])
        unused = {"loss", "optimizer", "scheduler"}
        parser.add_class_arguments(kind, "model", skip=unused, instantiate=False)
        kept = {key: value for key, value in settings.items() if key not in unused}
        made = parser.instantiate(parser.parse_object({"model": kept}))
        return kind(**vars(made["model"]), loss=nn.Identity())
    except (ArgumentError, ImportError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: its network cannot be made here ({reason}); go to the folder that its run was started in"
        ) from error


def own_class(path: str) -> type[nn.Module]:
    """The class of a module that overrides this package's.

    Raises:
        ImportError, AttributeError, ValueError: if it cannot be imported.
        TypeError: if it is none, so that a foreign checkpoint has nothing else called.
    """
    kind = pkgutil.resolve_name(path)
    # By name, for EmbeddingModule itself would bring Lightning with it.
    names = (f"{c.__module__}.{c.__qualname__}" for c in getattr(kind, "__mro__", ()))
    if not (isinstance(kind, type) and "lifted_lightning.module.EmbeddingModule" in names):
        raise TypeError(f"{path} is no subclass of lifted_lightning.module.EmbeddingModule")
    return kind


def without_weights(network: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a network that is about to get a checkpoint's weights: it needs no others."""
    try:
        kind = pkgutil.resolve_name(network["class_path"])
    except (ImportError, AttributeError, ValueError):
        return network  # the parser says what is wrong with it
    if not (isinstance(kind, type) and issubclass(kind, EmbeddingNetwork)):
        return network
    settings = {**network.get("init_args", {})}
    settings.update({key: value for key, value in WITHOUT.items() if key in settings})
    return {**network, "init_args": settings}
