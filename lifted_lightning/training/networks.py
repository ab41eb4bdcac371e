"""Networks that turn images into embeddings: a pretrained trunk with a linear head, and a small ConvNet."""

import glob
import math
import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lifted_lightning.data.augment import IMAGENET_MEAN, IMAGENET_STD
from lifted_lightning.distributed import rank
from lifted_lightning.errors import UserError, did_you_mean, one_line

DOCUMENTED = "see its documentation for the names"

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
        embeddings = self.head(self.dropout(self.trunk(images)))
        return self.length * functional.normalize(embeddings) if self.normalize else embeddings

    def initial_trunk(self) -> nn.Module | None:
        """The trunk as it was before training, in evaluation mode, if it came with weights; else None."""
        return None

    def load_head(self, file: Path) -> bool:
        """Take the head of a run's checkpoint, if that gives as many dimensions, and say so; bare weights have none."""
        head = read_weights(file)[1]
        if head and head["weight"].shape == self.head.weight.shape:
            self.head.load_state_dict(head)
            return True
        if head:
            sizes = f"{len(head['weight'])} dimensions, not {self.embedding_size}"
            warnings.warn(f"weights_file={file}: its head gives {sizes}: the head begins anew", stacklevel=2)
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
    """A classification network of torchvision or timm, its classifier replaced by a linear embedding.

    torchvision's GoogLeNet, the default, is the variant with batch normalisation; the paper's has none. Its
    auxiliary heads are left out. The trunk's own dropout before the classifier gives way to ``dropout``.

    Args:
        trunk: a classification network of torchvision by name (``googlenet``, ``resnet50``, ``vit_b_16``,
            ...), or ``timm:NAME`` for one of timm's.
        pretrained: start from ImageNet weights: of a file ``TRUNK.pth`` or ``TRUNK-*.pth`` in the folder that the
            environment's ``LIFTED_WEIGHTS_DIR`` names, if there is one, else downloaded. A string names one of
            torchvision's sets, such as ``IMAGENET1K_V1``, to be downloaded.
        embedding_size: number of dimensions of an embedding.
        dropout: probability of dropping a feature before the head (the paper: 0.4).
        normalize: give all embeddings one length, for which the losses' defaults are. The paper's are not normalised.
        freeze_batchnorm: keep the trunk's batch normalisation at its loaded statistics, scale and shift.
        weights_file: a state dict saved by ``torch.save``, used instead of a download; ``$NAME`` in the path
            stands for an environment variable. A classifier in it is passed over. Or a run's checkpoint, to
            fine-tune from: of that the head is taken too, if it gives as many dimensions.
        length: of normalised embeddings, as in `ConvNet`.
        head: how the head begins: ``orthonormal``, so that embeddings begin with the geometry of the trunk's features
            (all of it where they have as many dimensions or more, else what the principal axes of the first images
            keep of it); or ``random``, as torch begins a linear layer.

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
        normalize: bool = True,
        freeze_batchnorm: bool = False,
        weights_file: str | Path | None = None,
        length: float = 1.0,
        head: HeadStart = "orthonormal",
    ) -> None:
        if weights_file is None and pretrained is True:
            weights_file = kept_weights(trunk)
        network, features = build_trunk(trunk, pretrained, weights_file)
        super().__init__(network, features, embedding_size, dropout, normalize, length)
        statistics = getattr(network, "pretrained_cfg", {})  # timm's networks carry their own
        self.mean = statistics.get("mean", IMAGENET_MEAN)
        self.std = statistics.get("std", IMAGENET_STD)
        self.source = (trunk, pretrained, weights_file)
        if head == "orthonormal":  # rows, or columns where they are fewer; the identity where the sizes agree
            (nn.init.eye_ if embedding_size == features else nn.init.orthogonal_)(self.head.weight)
            nn.init.zeros_(self.head.bias)
        loaded = weights_file is not None and self.load_head(Path(os.path.expandvars(weights_file)))
        turns = head == "orthonormal" and embedding_size < features and not loaded
        self.features_wanted = max(512, 2 * embedding_size) if turns else 0  # of so many images; see begin_head
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

    @torch.no_grad()
    def begin_head(self, features: Tensor) -> None:
        """Turn an orthonormal head to the principal axes of features (n, F) of the trunk, about 0: distances stay."""
        rows = (functional.normalize(features) if self.normalize else features).double()
        axes = torch.linalg.eigh(rows.T @ rows)[1].flip(1).T  # the longest first
        self.head.weight.copy_(axes[: self.embedding_size])

    def initial_trunk(self) -> nn.Module | None:
        """See base class."""
        _, pretrained, weights_file = self.source
        return build_trunk(*self.source)[0].eval() if pretrained or weights_file else None


def kept_weights(trunk: str) -> Path | None:
    """The file of this trunk's weights in ``LIFTED_WEIGHTS_DIR``, which is said, or None."""
    name, folder = trunk.removeprefix("timm:"), os.environ.get("LIFTED_WEIGHTS_DIR")
    files = sorted(Path(folder).expanduser().glob(f"{glob.escape(name)}*.pth")) if folder else []
    file = next((file for file in files if file.name.removeprefix(name)[0] in "-."), None)
    if file is not None and rank() == 0:
        print(f"trunk {trunk}: weights of {file.name} in LIFTED_WEIGHTS_DIR")
    return file


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """All layers of batch normalisation, whatever their number of dimensions."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def build_trunk(name: str, pretrained: bool | str, weights_file: str | Path | None) -> tuple[nn.Module, int]:
    """The named network without its classifier, and the number of its features.

    Returns:
        a module from (B, C, H, W) to (B, features), and features. Its convolutions are in channels_last memory, as
        the images are: that is faster on GPUs, and on CPUs where a network makes its input anew, as GoogLeNet does.
    """
    download = pretrained if weights_file is None else False
    try:
        if name.startswith("timm:"):
            network, features, dropped = timm_trunk(name.removeprefix("timm:"), download)
        else:
            network, features, dropped = torchvision_trunk(name, download)
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise UserError(
            f"trunk {name}: its weights could not be downloaded ({one_line(error)}); with a network try again, "
            "without one give model.network.weights_file=FILE, a state dict that you have (or LIFTED_WEIGHTS_DIR, the "
            "folder that has it), or pretrained=false for random weights"
        ) from error
    if weights_file is not None:
        load_weights(network, Path(os.path.expandvars(weights_file)), dropped)
    return network.to(memory_format=torch.channels_last), features


def torchvision_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...]]:
    """A trunk of torchvision, its number of features, and the prefixes of the parameters left out."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"trunk={name}: torchvision has no such network; {did_you_mean(name, known, DOCUMENTED)}")
    options: dict[str, bool] = {}
    with_auxiliary = name in ("googlenet", "inception_v3")
    if with_auxiliary and not pretrained:
        # Their weights want inputs scaled as in TensorFlow; torchvision sets that only with its download.
        options = {"init_weights": True, "transform_input": True}
    try:
        network = models.get_model(name, weights="DEFAULT" if pretrained is True else pretrained or None, **options)
    except KeyError:
        sets = [w.name for w in models.get_model_weights(name)]
        raise UserError(f"pretrained={pretrained}: {name} has {', '.join(sets)}") from None
    if with_auxiliary:
        network.aux_logits = False
        for head in ("aux1", "aux2", "AuxLogits"):
            setattr(network, head, None)
    classifier, layer = next(
        (path, module)
        for path, module in reversed(list(network.named_modules()))
        if isinstance(module, nn.Linear | nn.Conv2d)
    )
    features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    network.set_submodule(classifier, nn.Identity())
    for path, module in network.named_modules():
        if isinstance(module, nn.Dropout) and ("." not in path or path.split(".")[0] == classifier.split(".")[0]):
            module.p = 0.0
    return network, features, (f"{classifier}.", "aux1.", "aux2.", "AuxLogits.")


def timm_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...]]:
    """A trunk of timm, its number of features, and the prefixes of the parameters left out."""
    try:
        import timm
    except ImportError:
        raise UserError(f"trunk timm:{name} needs timm: pip install 'lifted-lightning[timm]'") from None

    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), DOCUMENTED, prefix="timm:")
        raise UserError(f"trunk=timm:{name}: timm has no such network; {hint}")
    if isinstance(pretrained, str):
        raise UserError(f"pretrained={pretrained}: timm's weights are part of the name, as in timm:{name}.TAG")
    network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    # The name, or the names, of the classifier that the whole network would have.
    classifier = network.pretrained_cfg.get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else classifier
    # With a hidden layer between pooling and classifier, num_features is the width before it.
    features = getattr(network, "head_hidden_size", network.num_features)
    return network, features, tuple(f"{name}." for name in classifiers)


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trunk's weights of a plain state dict or of a run's checkpoint, and the head's of the latter.

    Raises:
        UserError: for a file that cannot be read, or is neither.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"weights_file={file}: there is no such file") from None
    except Exception as error:  # unpickling a foreign file can raise nearly anything
        reason = type(error).__name__
        raise UserError(f"weights_file={file}: not a state dict saved by torch.save ({reason})") from error
    saved = state.get("state_dict") if isinstance(state, dict) else None
    if isinstance(saved, dict):
        parts = ("network.trunk.", "network.head.")
        trunk, head = ({k.removeprefix(p): v for k, v in saved.items() if k.startswith(p)} for p in parts)
        if not trunk:
            raise UserError(f"weights_file={file}: is a checkpoint, but not of a network with trunk and head")
        return trunk, head
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights_file={file}: holds more than a state dict; save the dict of tensors alone")
    return state, {}


def load_weights(network: nn.Module, file: Path, dropped: tuple[str, ...]) -> None:
    """Load a trunk's weights, passing over the parameters whose names start as ``dropped`` says.

    Raises:
        UserError: for a file that cannot be read, and for missing, unexpected or wrongly shaped parameters.
    """
    state, _ = read_weights(file)
    for name in [name for name in state if name.startswith(dropped)]:
        del state[name]  # in place: a copy would lose the versions that torch keeps beside the tensors
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of wrong shapes
        raise UserError(f"weights_file={file}: does not fit the trunk: {one_line(error)}") from error
    # Old files lack the step counters of batch normalisation, which no result depends on.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    found = [
        f"{len(n)} {kind} ({'; '.join(n[:3])})" for kind, n in (("missing", missing), ("unexpected", unexpected)) if n
    ]
    if found:
        raise UserError(f"weights_file={file}: does not fit the trunk: {', '.join(found)}")
