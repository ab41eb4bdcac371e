"""Networks that turn images into embeddings: a pretrained trunk with a linear head, and a small ConvNet."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lifted_lightning.data.augment import IMAGENET_MEAN, IMAGENET_STD
from lifted_lightning.errors import UserError
from lifted_lightning.trunks import build_trunk


class Embedder(nn.Module):
    """A trunk that gives flat features, then dropout, a linear head, and embeddings of one length if asked for.

    Shape: (B, C, H, W) float images to (B, embedding_size).

    Attributes:
        trunk: images to (B, features).
        head: the linear embedding layer, which has a learning rate of its own.
        embedding_size: number of dimensions of an embedding.
        normalize: whether all embeddings have one length.
        length: that length.
        mean: the per channel mean of pixels in [0, 1] that the trunk expects to be subtracted; None: any.
        std: the standard deviation that it expects to be divided by, likewise.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __init__(
        self,
        trunk: nn.Module,
        features: int,
        embedding_size: int,
        dropout: float,
        normalize: bool,
        length: float = 1.0,
    ) -> None:
        super().__init__()
        if embedding_size <= 0:
            raise UserError(f"embedding_size={embedding_size}: give at least 1 (the paper uses 64 to 512)")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout}: give a probability of at least 0 and below 1")
        if length <= 0 or (length != 1 and not normalize):
            raise UserError(
                f"length={length}, normalize={normalize}: give a length above 0, with normalize=true"
            )
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, embedding_size)
        self.embedding_size = embedding_size
        self.normalize = normalize
        self.length = length

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float images to (B, embedding_size) embeddings."""
        embeddings = self.head(self.dropout(self.trunk(images)))
        return self.length * functional.normalize(embeddings) if self.normalize else embeddings

    def initial_trunk(self) -> nn.Module | None:
        """The trunk as it was before training, in evaluation mode, if it came with weights; else None."""
        return None


class ConvNet(Embedder):
    """Four convolutions with batch normalisation, for small images such as Glyphs and Omniglot (28-64 px).

    Each of the first three is followed by pooling that halves the image; the head sees a 4x4 map, so that
    where a stroke is still counts.

    Args:
        embedding_size: number of dimensions of an embedding.
        channels: 1 for greyscale images, 3 for colour.
        width: channels of the first convolution; the others have 2, 4 and 4 times as many.
        dropout: probability of dropping a feature before the head.
        normalize: give all embeddings one length. The paper's are not normalised.
        length: that length. It changes no ranking, but what the distances are to a margin and a log-sum-exp.

    Raises:
        UserError: for a size or length that is not positive, or a dropout that is no probability.
    """

    def __init__(
        self,
        embedding_size: int = 64,
        channels: int = 1,
        width: int = 32,
        dropout: float = 0.0,
        normalize: bool = False,
        length: float = 1.0,
    ) -> None:
        if min(channels, width) <= 0:
            raise UserError(f"ConvNet channels={channels}, width={width}: both must be at least 1")
        sizes = (channels, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        trunk = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(4), nn.Flatten())
        super().__init__(trunk, 64 * width, embedding_size, dropout, normalize, length)


class EmbeddingNetwork(Embedder):
    """A classification network of torchvision or timm, its classifier replaced by a linear embedding.

    torchvision's GoogLeNet, the default, is the variant with batch normalisation; the paper's has none. Its
    auxiliary heads are left out. The trunk's own dropout before the classifier gives way to ``dropout``.

    Args:
        trunk: a classification network of torchvision by name (``googlenet``, ``resnet50``, ``vit_b_16``,
            ...), or ``timm:NAME`` for one of timm's.
        pretrained: start from ImageNet weights, downloaded if need be; a string names one of torchvision's
            sets, such as ``IMAGENET1K_V1``, and True takes its default.
        embedding_size: number of dimensions of an embedding.
        dropout: probability of dropping a feature before the head (the paper: 0.4).
        normalize: give all embeddings one length. The paper's are not normalised.
        freeze_batchnorm: keep the trunk's batch normalisation at its loaded statistics, scale and shift.
        weights_file: a state dict saved by ``torch.save``, used instead of a download; ``$NAME`` in the path
            stands for an environment variable. A classifier in it is passed over.
        length: of normalised embeddings, as in `ConvNet`.

    Raises:
        UserError: for an unknown trunk, a size or length that is not positive, weights that cannot be downloaded
            or do not fit.
    """

    def __init__(
        self,
        trunk: str = "googlenet",
        pretrained: bool | str = True,
        embedding_size: int = 64,
        dropout: float = 0.0,
        normalize: bool = False,
        freeze_batchnorm: bool = False,
        weights_file: str | Path | None = None,
        length: float = 1.0,
    ) -> None:
        network, features = build_trunk(trunk, pretrained, weights_file)
        super().__init__(network, features, embedding_size, dropout, normalize, length)
        statistics = getattr(network, "pretrained_cfg", {})  # timm's networks carry their own
        self.mean = statistics.get("mean", IMAGENET_MEAN)
        self.std = statistics.get("std", IMAGENET_STD)
        self.source = (trunk, pretrained, weights_file)
        self.freeze_batchnorm = freeze_batchnorm
        if freeze_batchnorm:
            for layer in batchnorms(self.trunk):
                layer.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "EmbeddingNetwork":
        """Set training mode, except for frozen batch normalisation."""
        super().train(mode)
        if self.freeze_batchnorm:
            for layer in batchnorms(self.trunk):
                layer.eval()
        return self

    def initial_trunk(self) -> nn.Module | None:
        """See base class."""
        _, pretrained, weights_file = self.source
        return build_trunk(*self.source)[0].eval() if pretrained or weights_file else None


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """All layers of batch normalisation, whatever their number of dimensions."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]
