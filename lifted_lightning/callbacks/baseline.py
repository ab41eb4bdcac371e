"""What there is to beat: the same images without training, as the untrained trunk or the raw pixels see them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from lifted_lightning.module import Batch, EmbeddingModule

PIXEL_SIDE = 32  # raw pixels are compared at no more than this side, which keeps them thousands of numbers


@torch.inference_mode()
def embed_baseline(module: EmbeddingModule, batches: Iterable[Batch]) -> tuple[str, Tensor, Tensor, Tensor]:
    """Features of this rank's images without training.

    Returns:
        What sees them (the untrained trunk, or raw pixels), indices (n,), features (n, F) float32, labels (n,).
    """
    name, features = _features(module)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        images = batch["images"].to(module.device)
        rows.append((batch["indices"], features(images).float().cpu(), batch["labels"]))
    indices, embeddings, labels = zip(*rows, strict=True)
    return name, torch.cat(indices), torch.cat(embeddings), torch.cat(labels)


def _features(module: EmbeddingModule) -> tuple[str, Callable[[Tensor], Tensor]]:
    make = getattr(module.network, "initial_trunk", None)
    trunk = make() if make else None
    if trunk is None:
        return "raw pixels", _raw_pixels
    trunk = trunk.to(module.device, module.augment.mean.dtype)
    return "untrained trunk", lambda images: trunk(module.augment(images, None))


def _raw_pixels(images: Tensor) -> Tensor:
    side = min(*images.shape[2:], PIXEL_SIDE)
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)
