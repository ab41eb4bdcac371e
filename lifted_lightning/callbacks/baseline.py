"""What an embedding is compared with: the same images without training, and what to try where that is better."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifted_lightning.training.module import EmbeddingModule

PIXEL_SIDE = 32  # raw pixels are compared at no more than this side, which keeps them thousands of numbers
FROZEN, PIXELS = "frozen trunk", "raw pixels"
WHAT_TO_TRY = {  # where the embedding is worse, the likeliest first
    FROZEN: (
        "a third of --model.optimizer.lr, a head that begins orthonormal (--model.network.head), the loss's own "
        "defaults, more steps, or all of experiments/photographs.yaml"
    ),
    PIXELS: "more steps, another --model.optimizer.lr, or for photographs a pretrained trunk",
}


def untrained_features(module: EmbeddingModule, unit_length: bool) -> tuple[str, Callable[[Tensor], Tensor]]:
    """What sees images without training, by name, and how: the network's trunk as it began, or raw pixels.

    Args:
        module: whose network it is.
        unit_length: whether the features get unit length, as they must where the embeddings have one length.

    Returns:
        ``"frozen trunk"`` or ``"raw pixels"``; a function from uint8 images (B, C, H, W) to features (B, F).
    """
    make = getattr(module.network, "initial_trunk", None)
    with torch.random.fork_rng(devices=[]):  # training's random numbers stay as they are
        trunk = make() if make else None
    name, see = PIXELS, _raw_pixels
    if trunk is not None:
        trunk = trunk.to(module.device, module.augment.mean.dtype)
        name, see = FROZEN, lambda images: trunk(module.augment(images, None))
    return name, (lambda images: functional.normalize(see(images))) if unit_length else see


def _raw_pixels(images: Tensor) -> Tensor:
    side = min(*images.shape[2:], PIXEL_SIDE)
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)


def have_one_length(network: nn.Module, embeddings: Tensor) -> bool:
    """Whether a network gives embeddings of one length: as its ``normalize`` says, else as these (N, D) seem to be."""
    if isinstance(told := getattr(network, "normalize", None), bool):
        return told  # embeddings that have collapsed to a point seem to have one length, too
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1)
    return bool(len(lengths) and lengths.max() - lengths.min() <= 0.01 * lengths.max())
