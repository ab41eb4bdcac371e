"""Networks that turn images into embeddings: a pretrained trunk with a pooling and a head, and a small ConvNet."""

import copy
import math
import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lifted_lightning.errors import UserError
from lifted_lightning.training.lora import add_lora
from lifted_lightning.training.pooling import Pooling
from lifted_lightning.training.trunks import (
    build_trunk,
    kept_weights,
    load_weights,
    map_and_class_token,
    read_weights,
    set_image_size,
)

HeadStart = Literal["orthonormal", "random"]


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
        interpolation: by which the images were resized that its weights are of; None: any.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None

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
        if not 0 < length < math.inf or (length != 1 and not normalize):
            raise UserError(f"length={length}, normalize={normalize}: give a length above 0, with normalize=true")
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, embedding_size)
        self.embedding_size = embedding_size
        self.normalize = normalize
        self.length = length

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float images to (B, embedding_size) embeddings."""
        embeddings = self.head(self.dropout(self.features_of(images)))
        return self.length * functional.normalize(embeddings) if self.normalize else embeddings

    def features_of(self, images: Tensor) -> Tensor:
        """What the head sees of images (B, C, H, W), but for dropout: (B, features)."""
        return self.trunk(images)

    def initial_trunk(self) -> nn.Module | None:
        """The trunk as it was before training, in evaluation mode, if it came with weights; else None."""
        return None

    def load_head(self, file: Path) -> bool:
        """Take a run's head, and what of the network lies before it, if all sizes agree; bare weights have none.

        If they do not, that is said.
        """
        saved = read_weights(file).after_trunk
        own = {name: weights.shape for name, weights in self.state_dict().items() if not name.startswith("trunk.")}
        if saved and own == {name: weights.shape for name, weights in saved.items()}:
            self.load_state_dict(saved, strict=False)
            return True
        if saved:
            size = len(saved["head.weight"])
            told = f"its head gives {size} dimensions, not {self.embedding_size}"
            told = told if size != self.embedding_size else "other layers lie between its trunk and its head"
            warnings.warn(f"weights_file={file}: {told}: the head begins anew", stacklevel=2)
        return False


class CellMeans(nn.AdaptiveAvgPool2d):
    """torch's adaptive average pooling, and the same where deterministic algorithms are asked for.

    On CUDA the backward pass of torch's own refuses then; that of plain means does not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, n, n)."""
        if not torch.are_deterministic_algorithms_enabled():
            return super().forward(input)
        n = cast(int, self.output_size)
        rows, columns = ([slice(i * s // n, -(-(i + 1) * s // n)) for i in range(n)] for s in input.shape[2:])
        return torch.stack([input[:, :, r, c].mean((2, 3)) for r in rows for c in columns], 2).unflatten(2, (n, n))


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
        weights_file: a checkpoint of a run to start from, as in `EmbeddingNetwork`.

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
        weights_file: str | Path | None = None,
    ) -> None:
        if min(channels, width) <= 0:
            raise UserError(f"ConvNet channels={channels}, width={width}: both must be at least 1")
        sizes = (channels, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        trunk = nn.Sequential(*layers[:-1], CellMeans(4), nn.Flatten())
        super().__init__(trunk, 64 * width, embedding_size, dropout, normalize, length)
        if weights_file is not None:
            load_weights(self.trunk, file := Path(os.path.expandvars(weights_file)), ())
            self.load_head(file)


class EmbeddingNetwork(Embedder):
    """A classification network of torchvision or timm, its classifier replaced by an embedding.

    torchvision's GoogLeNet, the default, is the variant with batch normalisation; the paper's has none. Its
    auxiliary heads are left out. The trunk's own dropout before the classifier gives way to ``dropout``.

    Args:
        trunk: a classification network of torchvision by name (``googlenet``, ``resnet50``, ``vit_b_16``,
            ...), or ``timm:NAME`` for one of timm's (``timm:vit_small_patch14_dinov2``). A transformer is made to take
            images of the augmentation's size.
        pretrained: start from ImageNet weights: of a file ``TRUNK.pth`` or ``TRUNK-*.pth`` in the folder that the
            environment's ``LIFTED_WEIGHTS_DIR`` names, if there is one, else downloaded. A string names one of
            torchvision's sets, such as ``IMAGENET1K_V1``, to be downloaded.
        embedding_size: number of dimensions of an embedding.
        dropout: probability of dropping a feature before the head (the paper: 0.4).
        normalize: give all embeddings one length, for which the losses' defaults are. The paper's are not normalised.
        freeze_batchnorm: keep the trunk's batch normalisation at its loaded statistics, scale and shift.
        weights_file: a state dict saved by ``torch.save``, used instead of a download; ``$NAME`` in the path
            stands for an environment variable. A classifier in it is passed over. Or a run's checkpoint, to
            fine-tune from: of that the head is taken too, if all sizes agree.
        length: of normalised embeddings, as in `ConvNet`.
        head: how the head begins: ``orthonormal``, so that embeddings begin with the geometry of the features before it
            (all of it where they have as many dimensions or more, else what the principal axes of the first images
            keep of it); or ``random``, as torch begins a linear layer.
        pooling: how places become features: ``Average``, ``Max``, ``AverageMax``, ``GeM``, of transformers also
            ``ClassToken`` and ``ClassAverage``, or a subclass of ``Pooling`` by class path; None: the trunk's own way.
        layer_norm: normalise the layer of features.
        hidden: have a hidden layer of so many units (GELU) before the head; None: none.
        lora_rank: above 0 the trunk, a transformer of timm, is frozen, and matrices of this rank learn beside its
            linear layers (see ``training/lora.py``).

    Raises:
        UserError: for an unknown trunk, a size or length that is not positive, weights that cannot be downloaded
            or do not fit, a trunk that cannot be pooled otherwise.
    """

    def __init__(
        self,
        trunk: str = "googlenet",
        pretrained: bool | str = True,
        embedding_size: int = 64,
        dropout: float = 0.0,
        normalize: bool = True,
        freeze_batchnorm: bool = False,
        weights_file: str | Path | None = None,
        length: float = 1.0,
        head: HeadStart = "orthonormal",
        pooling: Pooling | None = None,
        layer_norm: bool = False,
        hidden: int | None = None,
        lora_rank: int = 0,
    ) -> None:
        if lora_rank < 0:
            raise UserError(f"lora_rank={lora_rank}: give at least 1, or 0 to train the trunk itself")
        if hidden is not None and hidden < 1:
            raise UserError(f"hidden={hidden}: give at least 1 unit, or leave it out")
        if weights_file is None and pretrained is True:
            weights_file = kept_weights(trunk)
        network, features, expected = build_trunk(trunk, pretrained, weights_file, pooling is None)
        digest = add_lora(network, lora_rank) if lora_rank else None
        features = features if pooling is None else pooling.build(features)
        super().__init__(network, hidden or features, embedding_size, dropout, normalize, length)
        # Of the weights that LoRA has frozen, if they are to be had again: what an adapter needs.
        self.trunk_digest = digest if pretrained or weights_file else None
        self.lora_rank = lora_rank
        self.mean, self.std = expected.mean, expected.std
        self.interpolation = expected.interpolation if pretrained or weights_file else None
        self.source = (trunk, pretrained, weights_file)
        self.own_size = expected.size
        self.image_size: tuple[int, int] | None = None
        self.pooling = pooling
        layers: list[nn.Module] = [nn.LayerNorm(features)] if layer_norm else []
        layers += [] if hidden is None else [nn.Linear(features, hidden), nn.GELU()]
        self.neck = nn.Sequential(*layers)
        if head == "orthonormal":  # rows, or columns where they are fewer; the identity where the sizes agree
            (nn.init.eye_ if embedding_size == self.head.in_features else nn.init.orthogonal_)(self.head.weight)
            nn.init.zeros_(self.head.bias)
        loaded = weights_file is not None and self.load_head(Path(os.path.expandvars(weights_file)))
        self._pooling_began = [copy.deepcopy(pooling)]  # in a list, or it would be trained
        turns = head == "orthonormal" and embedding_size < self.head.in_features and not loaded
        self.features_wanted = max(512, 2 * embedding_size) if turns else 0  # of so many images; see begin_head
        self.freeze_batchnorm = freeze_batchnorm
        if freeze_batchnorm:
            for layer in batchnorms(self.trunk):
                layer.requires_grad_(False)
        self.train()

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Have the trunk take images of this height and width, before weights of a run that had it are loaded.

        Raises:
            UserError: with the nearest sizes, if it cannot.
        """
        learns = {name: p.requires_grad for name, p in self.trunk.named_parameters()}
        set_image_size(self.trunk, size, self.source[0])
        for name, parameter in self.trunk.named_parameters():  # position embeddings are new ones
            parameter.requires_grad_(learns.get(name, True))
        self.image_size = size

    def features_of(self, images: Tensor) -> Tensor:
        """See base class."""
        if self.pooling is None:
            return self.neck(self.trunk(images))
        return self.neck(self.pooling(*map_and_class_token(self.trunk, images)))

    def train(self, mode: bool = True) -> "EmbeddingNetwork":
        """Set training mode, except for frozen batch normalisation."""
        super().train(mode)
        if self.freeze_batchnorm:
            for layer in batchnorms(self.trunk):
                layer.eval()
        return self

    @torch.no_grad()
    def begin_head(self, features: Tensor) -> None:
        """Turn an orthonormal head to the principal axes, about 0, of the features (n, F) before it: distances stay."""
        rows = (functional.normalize(features) if self.normalize else features).double()
        axes = torch.linalg.eigh(rows.T @ rows)[1].flip(1).T  # the longest first
        self.head.weight.copy_(axes[: self.embedding_size])

    def initial_trunk(self) -> nn.Module | None:
        """See base class."""
        _, pretrained, weights_file = self.source
        if not (pretrained or weights_file):
            return None
        trunk = build_trunk(*self.source, self.pooling is None)[0]
        if self.image_size is not None:
            set_image_size(trunk, self.image_size, self.source[0])
        (pooling,) = self._pooling_began
        return (trunk if pooling is None else Pooled(trunk, copy.deepcopy(pooling))).eval()


class Pooled(nn.Module):
    """A trunk and its pooling: (B, C, H, W) images to (B, F) features."""

    def __init__(self, trunk: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.trunk = trunk
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        """See class."""
        return self.pooling(*map_and_class_token(self.trunk, images))


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """All layers of batch normalisation, whatever their number of dimensions."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]
