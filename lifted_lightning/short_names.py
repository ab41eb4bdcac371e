"""Class names on the command line: this package's come first, and a newly chosen class starts from its defaults."""

from pkgutil import resolve_name
from typing import Any

from jsonargparse import _typehints
from torch import nn

OURS = "lifted_lightning."
MODULES = (f"{OURS}losses.", f"{OURS}networks.")
NOT_OFFERED = ("torch.", "torchvision.", "torchmetrics.", "pytorch_lightning.", "lightning_fabric.", "timm.")

_all_paths = _typehints.get_all_subclass_paths


def own_first(*args: Any, **kwargs: Any) -> list[str]:
    """Paths of the known subclasses of a type, without another library's class of a name that is ours.

    pytorch-metric-learning has a ContrastiveLoss and a LiftedStructureLoss too, and once a user's file imports it
    the parser would refuse the bare name. A class of another library is always to be had by its full path.
    """
    paths = _all_paths(*args, **kwargs)
    names = {path.rsplit(".", 1)[1] for path in paths if path.startswith(OURS)}
    paths = [path for path in paths if path.startswith(OURS) or path.rsplit(".", 1)[1] not in names]
    if args[0] is not nn.Module:
        return paths
    # The parser has the shortest path to a class; where ours is defined says what it is.
    homes = {p: f"{resolve_name(p).__module__}." if p.startswith(OURS) else p for p in paths}
    return [p for p in paths if homes[p].startswith(MODULES) or not homes[p].startswith((OURS, *NOT_OFFERED))]


def start_from_defaults(parser: Any, previous: Any, chosen: Any) -> None:
    """Forget the settings of one class when another is chosen.

    jsonargparse keeps those that both have: ``--model.loss=TripletLoss`` over a configuration of the lifted loss
    would train with that loss's margin, said or by default, and nobody would see it.
    """
    if previous and "init_args" in previous and previous["class_path"] != chosen["class_path"]:
        for key in list(
            vars(previous["init_args"]) if not isinstance(previous, dict) else previous["init_args"]
        ):
            del previous["init_args"][key]


def set_up_parsing() -> None:
    """Have jsonargparse do so. It has no public settings for either; tests guard both."""
    _typehints.get_all_subclass_paths = own_first
    _typehints.discard_init_args_on_class_path_change = start_from_defaults
