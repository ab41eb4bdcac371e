"""A pooling of one's own: lifted fit --config ../photographs.yaml --data.dataset.path=my_images \
--model.network.pooling=my_pooling.Attention"""

from torch import Tensor, nn

from lifted_lightning.training.pooling import Pooling


class Attention(Pooling):
    """Means over all places, by weights that are learnt: a head of attention each.

    Args:
        heads: how many means; the features of all stand one after the other.
    """

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads

    def build(self, channels: int) -> int:
        """Make the layer that depends on the trunk's C channels; returns the number of features."""
        self.score = nn.Conv2d(channels, self.heads, 1)
        return channels * self.heads

    def forward(self, places: Tensor, class_token: Tensor | None) -> Tensor:
        """Places (B, C, H, W) to features (B, heads * C)."""
        weights = self.score(places).flatten(2).softmax(dim=2)  # (B, heads, H * W)
        return (weights @ places.flatten(2).transpose(1, 2)).flatten(1)
