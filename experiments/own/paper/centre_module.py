"""The module: two random views of an image are to be embedded alike."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from lifted_lightning import EmbeddingModule


class AgreeingViews(EmbeddingModule):
    """Any loss of the first view, and the squared distance of each image's second view from the first.

    Args:
        agreement: the weight of the latter.
    """

    def __init__(self, agreement: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agreement = agreement

    def compute_loss(self, batch: dict[str, Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the global batch; ``embeddings`` (B, D) are of the first view."""
        views = functional.normalize(embeddings), functional.normalize(self.embed_view(batch))
        return self.loss(embeddings, labels) + self.agreement * (views[0] - views[1]).square().sum(dim=1).mean()
