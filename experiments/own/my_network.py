"""A network of one's own: lifted fit --config ../quickstart.yaml --model.network=my_network.TwoLayers"""

from torch import Tensor, nn


class TwoLayers(nn.Module):
    """Two convolutions and a linear head.

    Any module will do that maps float images (B, C, H, W) to embeddings (B, D) and has ``embedding_size``; parameters
    of an attribute ``head`` learn at ``model.head_lr_factor`` times the learning rate.

    Args:
        embedding_size: dimensions of an embedding.
        channels: 1 for grey images, 3 for colour.
        width: channels of the first convolution; the second has twice as many.
    """

    def __init__(self, embedding_size: int = 64, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(9 * 2 * width, embedding_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to embeddings (B, embedding_size)."""
        return self.head(self.trunk(images))
