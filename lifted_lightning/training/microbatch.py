"""A large batch embedded in pieces, with the gradient of the whole and the memory of a piece."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lifted_lightning.training.networks import batchnorms

Embed = Callable[[Tensor, Tensor], Tensor]


def embed_in_pieces(embed: Embed, images: Tensor, draws: Tensor, rows: int, network: nn.Module) -> Tensor:
    """Embed ``images`` (b, C, H, W) in pieces of ``rows``; the backward pass recomputes each piece and frees it.

    The loss of all b embeddings is taken once, and each piece is recomputed with its gradient (gradient caching:
    Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, 2021). Random numbers
    and autocast are replayed, so dropout is the same both times. BatchNorm uses the statistics of a piece.

    Args:
        embed: from images (p, C, H, W) and their draws (p, k) to embeddings (p, D).
        images: uint8 (b, C, H, W).
        draws: (b, k) random numbers for augmentation.
        rows: images a piece.
        network: whose BatchNorm statistics are to be updated once, not again in the recomputation.

    Returns:
        Embeddings (b, D).
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(network)

    pieces = zip(images.split(rows), draws.split(rows), strict=True)
    return torch.cat([checkpoint(embed, *piece, use_reentrant=False, context_fn=contexts) for piece in pieces])


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every BatchNorm layer as they are, while it normalises by the batch."""
    layers = [layer for layer in batchnorms(network) if layer.track_running_stats]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None and count is not None:
                layer.num_batches_tracked.copy_(count)
