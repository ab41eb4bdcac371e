"""What an embedding is compared with: the same images without training."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from lifted_lightning.training.module import Batch, EmbeddingModule

PIXEL_SIDE = 32  # raw pixels are compared at no more than this side, which keeps them thousands of numbers


def untrained_features(module: EmbeddingModule) -> tuple[str, Callable[[Tensor], Tensor]]:
    """What sees images without training, by name, and how: the network's trunk as it began, or raw pixels.

    Returns:
        ``"untrained trunk"`` or ``"raw pixels"``; a function from uint8 images (B, C, H, W) to features (B, F).
    """
    make = getattr(module.network, "initial_trunk", None)
    trunk = make() if make else None
    if trunk is None:
        return "raw pixels", _raw_pixels
    trunk = trunk.to(module.device, module.augment.mean.dtype)
    return "untrained trunk", lambda images: trunk(module.augment(images, None))


def _raw_pixels(images: Tensor) -> Tensor:
    side = min(*images.shape[2:], PIXEL_SIDE)
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)


@torch.inference_mode()
def embed_baseline(
    features: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Features (b, F) float32, labels and rows of this rank's batches, as ``RetrievalMetrics.update`` takes them."""
    return [
        (features(batch["images"].to(device)).float(), batch["labels"].to(device), batch["indices"].to(device))
        for batch in batches
    ]
