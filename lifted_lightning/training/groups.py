"""Who learns, and how fast: the optimiser's groups of trunk, head and loss, and what of a trunk is frozen."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from tabulate import tabulate
from torch import nn

from lifted_lightning.errors import UserError, did_you_mean
from lifted_lightning.training.networks import batchnorms
from lifted_lightning.training.trunks import children_names

Decayed = Literal["all", "matrices"]


def trunk_parameters(network: nn.Module) -> list[nn.Parameter]:
    """All parameters of a network but those below its attributes ``pooling``, ``neck`` and ``head``."""
    others = (getattr(network, name, None) or nn.Identity() for name in ("pooling", "neck", "head"))
    in_others = {id(p) for part in others for p in part.parameters()}
    return [p for p in network.parameters() if id(p) not in in_others]


def parameter_groups(
    network: nn.Module, loss: nn.Module, factors: Sequence[float], layer_decay: float, decayed: Decayed
) -> list[tuple[dict[str, Any], float]]:
    """The groups of an optimiser, and for each what the learning rate is multiplied by.

    Trunk, head and loss are a group each, if anything in them learns. With a ``layer_decay`` the trunk is one for each
    of its :func:`layers`, from ``trunk.0``; what has no weight decay is a group of its own, ``head/undecayed`` say.

    Args:
        network: with a head, or all of it is trunk.
        loss: whose parameters are proxies and the like.
        factors: of the rates of trunk, head and loss.
        layer_decay: a layer's rate as a share of that of the next layer; the last has the trunk's.
        decayed: what has the optimiser's weight decay: ``all``; or ``matrices``, that is no parameter of one dimension
            (norms, biases), none that the trunk names in ``no_weight_decay()``, as timm's do, and none of the loss.
    """
    in_trunk = {id(p) for p in trunk_parameters(network)}
    numbers = layers(getattr(network, "trunk", network)) if layer_decay != 1 else {}
    last = max(numbers.values(), default=0)
    spared = _not_to_decay(network) | {id(p) for p in loss.parameters()}
    parts = [("trunk" if id(p) in in_trunk else "head", p) for p in network.parameters()]
    found: dict[tuple[str, int, bool], list[nn.Parameter]] = {}
    for part, parameter in [*parts, *(("loss", p) for p in loss.parameters())]:
        layer = numbers.get(id(parameter), last) if part == "trunk" else last
        undecayed = decayed == "matrices" and (parameter.ndim < 2 or id(parameter) in spared)
        if parameter.requires_grad:
            found.setdefault((part, layer, undecayed), []).append(parameter)
    groups = []
    order = ("trunk", "head", "loss")
    for part, layer, undecayed in sorted(found, key=lambda key: (order.index(key[0]), key)):
        name = f"trunk.{layer}" if numbers and part == "trunk" else part
        group: dict[str, Any] = {"params": found[part, layer, undecayed], "name": name}
        if numbers or decayed == "matrices":
            group["part"] = part
        if undecayed:
            group |= {"name": f"{name}/undecayed", "weight_decay": 0.0}
        groups.append((group, factors[order.index(part)] * layer_decay ** (last - layer)))
    return groups


def layers(trunk: nn.Module) -> dict[int, int]:
    """The number of the layer that each parameter of a trunk belongs to, by the parameter's ``id``.

    0 is the layer nearest to the image. A network of timm says what its layers are by its method ``group_matcher``, and
    one of one's own can do so too. Else they are its children, those of a Sequential or ModuleList in its place; one
    that has norms and biases alone counts with the one before.

    Raises:
        UserError: if fewer than three are told apart.
    """
    module: Any
    for module in trunk.modules():
        if hasattr(module, "group_matcher"):
            from timm.models import group_parameters

            of_name = group_parameters(module, module.group_matcher(coarse=False), reverse=True)
            return {id(p): of_name[name] for name, p in module.named_parameters()}
    number, numbers = -1, {id(p): 0 for p in trunk.parameters()}
    known = dict(trunk.named_modules())
    for name in getattr(trunk, "children_names", None) or children_names(trunk):
        parameters = [*known[name].parameters()] if name in known else []  # a pooling leaves out what is behind it
        number += any(p.ndim > 1 for p in parameters)
        numbers |= {id(p): max(number, 0) for p in parameters}
    if number < 2:
        raise UserError(
            f"model.layer_decay: {number + 1} layers of {type(trunk).__name__} are told apart; take timm's network of "
            "the same name (timm:NAME), or give it a method group_matcher as timm's have"
        )
    return numbers


def _not_to_decay(network: nn.Module) -> set[int]:
    """The ``id`` of each parameter that a module names in its method ``no_weight_decay``."""
    told: list[Any] = [module for module in network.modules() if hasattr(module, "no_weight_decay")]
    patterns = [(module, pattern) for module in told for pattern in module.no_weight_decay()]
    return {id(p) for module, pattern in patterns for k, p in module.named_parameters() if fnmatchcase(k, pattern)}


def freeze(trunk: nn.Module, names: Sequence[str]) -> None:
    """Freeze for good the modules and parameters of a trunk that have these names, with the statistics in them.

    Names may have the wildcards of a shell, ``blocks.[0-5]``. Raises UserError for one that is of none.
    """
    known: dict[str, Any] = dict(trunk.named_modules()) | dict(trunk.named_parameters())
    for name in names:
        places = [place for place in known if fnmatchcase(place, name)]
        if not places:
            hint = f"give {', '.join(child for child, _ in trunk.named_children())}, or what is below"
            hint = did_you_mean(name, filter(None, known), hint)
            raise UserError(f"model.frozen {name}: the trunk has no such module or parameter; {hint}")
        for place in places:
            known[place].requires_grad_(False)
    keep_statistics(trunk, everywhere=False)


def keep_statistics(trunk: nn.Module, everywhere: bool) -> None:
    """Have batch normalisation of a trunk evaluate where its scale is frozen, or everywhere."""
    for layer in batchnorms(trunk):
        if everywhere or (layer.weight is not None and not layer.weight.requires_grad):
            layer.eval()


def table(groups: Sequence[dict[str, Any]], begun: Sequence[dict[str, Any]], network: nn.Module) -> str:
    """What learns, how many numbers, at which rate and decay: trunk, head, loss, what is not decayed, what is frozen.

    ``groups`` are an optimiser's, ``begun`` has their ``lr`` and ``weight_decay`` before a schedule has changed them.
    """
    lines: dict[str, tuple[list[int], list[float], str]] = {}
    named = [(str(group.get("name", "all")), group, rate) for group, rate in zip(groups, begun, strict=False)]
    for name, group, rate in sorted(named, key=lambda line: "/" in line[0]):
        name = group.get("part", name) + (", undecayed" if name.endswith("/undecayed") else "")
        line = lines.setdefault(name, ([], [], format(rate.get("weight_decay", math.nan), ".3g")))
        line[0].append(sum(p.numel() for p in group["params"]))
        line[1].append(rate["lr"])
    rows = [("learns", "parameters", "rate", "weight decay")]
    for name, (counts, rates, decay) in lines.items():
        span = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys((rates[0], rates[-1])))
        rows.append((name, f"{sum(counts):,}", span, decay))
    if frozen := sum(p.numel() for p in network.parameters() if not p.requires_grad):
        rows.append(("frozen", f"{frozen:,}", "", ""))
    return tabulate(rows, "firstrow", disable_numparse=True, colalign=("left", "right", "left", "left"))
