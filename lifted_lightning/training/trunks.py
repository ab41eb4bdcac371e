"""Trunks of torchvision and timm by name: without their classifier, with their weights, at the size of the images."""

import glob
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from lifted_lightning.data.images import sides
from lifted_lightning.distributed import rank
from lifted_lightning.errors import UserError, did_you_mean, one_line
from lifted_lightning.runs.checkpoint import SETTINGS_KEY
from lifted_lightning.runs.settings import flatten

DOCUMENTED = "see its documentation for the names"


class Expected(NamedTuple):
    """The images that a trunk's weights were trained on."""

    mean: tuple[float, ...]  # of pixels in [0, 1], a channel each
    std: tuple[float, ...]
    interpolation: str  # by which they were resized: bilinear, bicubic, ...
    size: tuple[int, int]  # height and width in pixels


def kept_weights(trunk: str) -> Path | None:
    """The file of this trunk's weights in ``LIFTED_WEIGHTS_DIR``, which is said, or None."""
    name, folder = trunk.removeprefix("timm:"), os.environ.get("LIFTED_WEIGHTS_DIR")
    files = sorted(Path(folder).expanduser().glob(f"{glob.escape(name)}*.pth")) if folder else []
    file = next((file for file in files if file.name.removeprefix(name)[0] in "-."), None)
    if file is not None and rank() == 0:
        print(f"trunk {trunk}: weights of {file.name} in LIFTED_WEIGHTS_DIR")
    return file


def build_trunk(
    name: str, pretrained: bool | str, weights_file: str | Path | None, pooled: bool = True
) -> tuple[nn.Module, int, Expected]:
    """The named network without its classifier, and the number of its features.

    Args:
        name: of torchvision's, or ``timm:NAME``.
        pretrained: whether to download weights if there is no file of them, or which of torchvision's.
        weights_file: as for ``EmbeddingNetwork``.
        pooled: whether the network pools as it does itself; else it gives what it knows of each place, see
            :func:`map_and_class_token`.

    Returns:
        a module from (B, C, H, W) to (B, features); features; and what images its weights are for. Its convolutions
        are in channels_last memory, as the images are: that is faster on GPUs, and on CPUs where a network makes its
        input anew, as GoogLeNet does.
    """
    download = pretrained if weights_file is None else False
    make = timm_trunk if name.startswith("timm:") else torchvision_trunk
    try:
        network, features, dropped, expected = make(name.removeprefix("timm:"), download)
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise UserError(
            f"trunk {name}: its weights could not be downloaded ({one_line(error)}); with a network try again, "
            "without one give model.network.weights_file=FILE, a state dict that you have (or LIFTED_WEIGHTS_DIR, the "
            "folder that has it), or pretrained=false for random weights"
        ) from error
    if not pooled:
        whole = list(network.state_dict())
        network, features = unpooled(network, features, name)
        dropped += tuple(set(whole) - set(network.state_dict()))  # an attention that pools, say
    if weights_file is not None:
        load_weights(network, Path(os.path.expandvars(weights_file)), dropped)
    return network.to(memory_format=torch.channels_last), features, expected


def torchvision_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...], Expected]:
    """A trunk of torchvision, its number of features, the prefixes of the parameters left out, its images."""
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
        weights: Any = models.get_model_weights(name)
        images = (weights[pretrained] if isinstance(pretrained, str) else weights.DEFAULT).transforms()
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
    expected = Expected(tuple(images.mean), tuple(images.std), images.interpolation.value, 2 * tuple(images.crop_size))
    return network, features, (f"{classifier}.", "aux1.", "aux2.", "AuxLogits."), expected


def timm_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...], Expected]:
    """A trunk of timm, its number of features, the prefixes of the parameters left out, its images."""
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
    config = network.pretrained_cfg
    expected = Expected(config["mean"], config["std"], config["interpolation"], config["input_size"][1:])
    # The name, or the names, of the classifier that the whole network would have.
    classifier = config.get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else classifier
    # With a hidden layer between pooling and classifier, num_features is the width before it.
    features = getattr(network, "head_hidden_size", network.num_features)
    return network, features, tuple(f"{name}." for name in classifiers), expected


# The size of the images


def set_image_size(trunk: nn.Module, size: tuple[int, int], name: str) -> None:
    """Have a trunk take images of this height and width: its position embeddings are resampled, its windows scaled.

    Most convolutional networks take any size as they are.

    Raises:
        UserError: with the nearest sizes, for sides that its patches do not divide.
    """
    network: Any = trunk
    in_torchvision = hasattr(network, "conv_proj") and hasattr(network, "class_token")
    embed: Any = getattr(network, "patch_embed", None)
    now = 2 * (network.image_size,) if in_torchvision else getattr(embed, "img_size", None)
    patch = 2 * (network.patch_size,) if in_torchvision else (1, 1)
    if hasattr(embed, "feat_ratio"):
        patch = embed.feat_ratio(as_scalar=False)
    if any(side % step for side, step in zip(size, patch, strict=True)):
        fewer = [side // step * step for side, step in zip(size, patch, strict=True)]
        more = [-(-side // step) * step for side, step in zip(size, patch, strict=True)]
        nearest = [str(s[0]) if s[0] == s[1] else f"[{s[0]},{s[1]}]" for s in (fewer, more) if min(s)]
        raise UserError(
            f"trunk {name}: its patches of {patch[0]}x{patch[1]} pixels do not divide images of {size[0]}x{size[1]}; "
            f"give --model.augment.size={' or '.join(nearest)}"
        )
    if now is not None and tuple(now) == size:
        return
    try:
        if in_torchvision:
            from torchvision.models.vision_transformer import interpolate_embeddings

            if size[0] != size[1]:
                raise ValueError("takes squares; timm's transformers take rectangles too")
            key = "encoder.pos_embedding"
            position = OrderedDict({key: network.get_parameter(key).detach()})
            network.encoder.pos_embedding = nn.Parameter(interpolate_embeddings(size[0], patch[0], position)[key])
            network.image_size = size[0]
        elif hasattr(network, "set_input_size"):  # timm's
            network.set_input_size(size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"trunk {name}: does not take images of {size[0]}x{size[1]} ({one_line(error)})") from error


# What a trunk knows of each place, for a pooling


def unpooled(network: Any, features: int, name: str) -> tuple[nn.Module, int]:
    """A trunk without its own pooling, and how many numbers it gives of each place; see :func:`map_and_class_token`.

    Raises:
        UserError: if its own pooling cannot be taken away.
    """
    if name.startswith("timm:"):
        try:
            network.reset_classifier(0, "")
        except (AssertionError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"trunk {name}: cannot be pooled otherwise ({one_line(error)}); leave out pooling"
            ) from error
        return network, features
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    if hasattr(network, "class_token"):
        raise UserError(f"trunk {name}: torchvision's tokens are not to be had; give timm:vit_base_patch16_224, say")
    names = get_graph_node_names(network)[1]
    with torch.no_grad():
        seen = create_feature_extractor(network.eval(), names)(torch.zeros(1, 3, 224, 224))
    maps = [key for key in names if isinstance(seen[key], Tensor) and seen[key].ndim == 4 and seen[key].shape[2] > 1]
    extractor = create_feature_extractor(network, {maps[-1]: "map"})
    extractor.children_names = children_names(network)  # whose own are those of every block
    return extractor, seen[maps[-1]].shape[1]


def children_names(module: nn.Module) -> list[str]:
    """The names of a module's children, those of a Sequential or ModuleList in its place."""
    names: list[str] = []
    for name, child in module.named_children():
        below = children_names(child) if type(child) in (nn.Sequential, nn.ModuleList) else None
        names += [name] if below is None else [f"{name}.{other}" for other in below]
    return names


def map_and_class_token(trunk: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a trunk without a pooling knows of images (B, 3, H, W).

    Returns:
        (B, C, h, w), of each place, a transformer's patch say; and (B, C), the class token, if it has one.

    Raises:
        UserError: if it gives no map and no tokens in a grid.
    """
    given = trunk(images)
    if isinstance(given, dict):  # of torchvision
        return given["map"], None
    if given.ndim == 4:
        return (given.permute(0, 3, 1, 2) if getattr(trunk, "output_fmt", "") == "NHWC" else given), None
    if given.ndim != 3 or not (hasattr(trunk, "num_prefix_tokens") and hasattr(trunk.patch_embed, "dynamic_feat_size")):
        raise UserError(f"pooling: {type(trunk).__name__} gives no map of places; leave out pooling")
    grid = trunk.patch_embed.dynamic_feat_size(images.shape[2:])
    places = given[:, trunk.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
    return places, None if getattr(trunk, "cls_token", None) is None else given[:, 0]


# Weights


class Weights(NamedTuple):
    """What a file of weights holds."""

    trunk: dict[str, Tensor]
    after_trunk: dict[str, Tensor]  # of a run's checkpoint, "head.weight" and so on; bare weights have none
    size: tuple[int, int] | None  # height and width of the images that a run's checkpoint is for


def read_weights(file: Path) -> Weights:
    """The weights of a plain state dict or of a run's checkpoint.

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
        state_of = {k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")}
        trunk = {k.removeprefix("trunk."): state_of.pop(k) for k in [*state_of] if k.startswith("trunk.")}
        if not trunk or "head.weight" not in state_of:
            raise UserError(f"weights_file={file}: is a checkpoint, but not of a network with trunk and head")
        settings = flatten(yaml.safe_load(state.get(SETTINGS_KEY, "{}")))
        size = settings.get("model.augment.init_args.size") or settings.get("data.size")
        return Weights(merged(trunk), state_of, sides(size) if size else None)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights_file={file}: holds more than a state dict; save the dict of tensors alone")
    return Weights(state, {}, None)


def merged(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """A trunk's weights with the products of LoRA's matrices added to those that they lie beside, if there are any."""
    if not any(".lora_" in name for name in trunk):
        return trunk
    whole = {name.replace(".base_layer.", "."): value for name, value in trunk.items() if ".lora_" not in name}
    for name in [name for name in trunk if name.endswith(".base_layer.weight")]:
        layer = name.removesuffix(".base_layer.weight")
        a, b = (trunk[f"{layer}.lora_{matrix}.default.weight"] for matrix in "AB")
        whole[f"{layer}.weight"] = trunk[name] + b @ a
    return whole


def load_weights(network: nn.Module, file: Path, dropped: tuple[str, ...]) -> None:
    """Load a trunk's weights, passing over the parameters whose names start as ``dropped`` says.

    Raises:
        UserError: for a file that cannot be read, and for missing, unexpected or wrongly shaped parameters.
    """
    state, _, size = read_weights(file)
    if size is not None:
        set_image_size(network, size, f"of weights_file={file}")
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
