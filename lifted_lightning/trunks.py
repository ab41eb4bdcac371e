"""Trunks: classification networks of torchvision and timm without their classifiers."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError


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
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"trunk {name}: its weights could not be had ({reason}); use pretrained=false to start from "
            "random weights, or weights_file=FILE with a state dict that you have"
        ) from error
    if weights_file is not None:
        load_weights(network, Path(os.path.expandvars(weights_file)), dropped)
    return network.to(memory_format=torch.channels_last), features


def torchvision_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...]]:
    """A trunk of torchvision, its number of features, and the prefixes of the parameters left out."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_trunk(name, known, "torchvision")
    options: dict[str, bool] = {}
    with_auxiliary = name in ("googlenet", "inception_v3")
    if with_auxiliary and not pretrained:
        # Their weights want inputs scaled as in TensorFlow; torchvision sets that only with its download.
        options = {"init_weights": True, "transform_input": True}
    try:
        network = models.get_model(
            name, weights="DEFAULT" if pretrained is True else pretrained or None, **options
        )
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
        if isinstance(module, nn.Dropout) and (
            "." not in path or path.split(".")[0] == classifier.split(".")[0]
        ):
            module.p = 0.0
    return network, features, (f"{classifier}.", "aux1.", "aux2.", "AuxLogits.")


def timm_trunk(name: str, pretrained: bool | str) -> tuple[nn.Module, int, tuple[str, ...]]:
    """A trunk of timm, its number of features, and the prefixes of the parameters left out."""
    try:
        import timm
    except ImportError:
        raise UserError(f"trunk timm:{name} needs timm: pip install 'lifted-lightning[timm]'") from None

    if not timm.is_model(name):
        raise unknown_trunk(f"timm:{name}", [f"timm:{known}" for known in timm.list_models()], "timm")
    if isinstance(pretrained, str):
        raise UserError(
            f"pretrained={pretrained}: timm's weights are part of the name, as in timm:{name}.TAG"
        )
    network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    # The name, or the names, of the classifier that the whole network would have.
    classifier = network.pretrained_cfg.get("classifier") or ()
    classifiers = (classifier,) if isinstance(classifier, str) else classifier
    # With a hidden layer between pooling and classifier, num_features is the width before it.
    features = getattr(network, "head_hidden_size", network.num_features)
    return network, features, tuple(f"{name}." for name in classifiers)


def unknown_trunk(name: str, known: Sequence[str], library: str) -> UserError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "see its documentation for the names"
    return UserError(f"trunk={name}: {library} has no such network; {hint}")


def load_weights(network: nn.Module, file: Path, dropped: tuple[str, ...]) -> None:
    """Load a plain state dict, passing over the parameters whose names start as ``dropped`` says.

    Raises:
        UserError: for a file that cannot be read, and for missing, unexpected or wrongly shaped parameters.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"weights_file={file}: there is no such file") from None
    except Exception as error:  # unpickling a foreign file can raise nearly anything
        reason = type(error).__name__
        raise UserError(f"weights_file={file}: not a state dict saved by torch.save ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights_file={file}: holds more than a state dict; save the dict of tensors alone")
    for name in [name for name in state if name.startswith(dropped)]:
        del state[name]  # in place: a copy would lose the versions that torch keeps beside the tensors
    wanted = network.state_dict()
    # Old files lack the step counters of batch normalisation, which no result depends on.
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    problems = [("missing", missing), ("unexpected", [n for n in state if n not in wanted])]
    shapes = [
        f"{n} is {tuple(state[n].shape)}, want {tuple(wanted[n].shape)}"
        for n in state
        if n in wanted and state[n].shape != wanted[n].shape
    ]
    problems.append(("wrong shape", shapes))
    found = [f"{len(names)} {kind} ({'; '.join(names[:3])})" for kind, names in problems if names]
    if found:
        raise UserError(f"weights_file={file}: does not fit the trunk: {', '.join(found)}")
    network.load_state_dict(state, strict=False)
