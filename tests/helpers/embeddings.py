"""Embeddings with the ties and near ties of real networks, and blocks small enough to make many of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from lifted_lightning.metrics import retrieval, search

KINDS = ["random", "quantised", "duplicates", "equal", "two tight heaps", "far off", "huge", "tiny"]


def make(kind: str, n: int, d: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n, d) embeddings of a kind, and (n,) labels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    labels = torch.randint(classes, (n,), generator=g)
    if kind == "quantised":
        x = (2 * x).round() / 2
    elif kind == "duplicates":
        x = x[torch.randint(max(1, n // 4), (n,), generator=g)]
    elif kind == "equal":
        x = x[:1].expand(n, -1).clone()
    elif kind == "two tight heaps":  # nearer to one another than single precision can tell
        x = 1e-7 * x + torch.randn(2, d, generator=g)[torch.randint(2, (n,), generator=g)]
    elif kind == "far off":
        x = x + 1e4
    elif kind == "huge":
        x = x * 1e18
    elif kind == "tiny":
        x = x * 1e-30
    return x, labels


@contextmanager
def blocks(small: bool) -> Iterator[None]:
    """Blocks of queries and lists of candidates as they are chosen, or as small as a large data set makes them."""
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(search.Search, "block_size", lambda self, more=0: 7)
            patch.setattr(search, "SPARE", 1)
            patch.setattr(retrieval, "SPARE", 1)
            patch.setattr(search, "GROUP", 2)
            patch.setattr(retrieval, "GROUP", 2)
            patch.setattr(retrieval, "_GROUPS", 3)
        yield
