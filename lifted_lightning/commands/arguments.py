"""From the errors of the parser and of torch to one line that a person can act upon."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from pkgutil import resolve_name
from typing import Any

from jsonargparse import _typehints
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lifted_lightning.data.augment import Augmentation
from lifted_lightning.data.datasets.base import RetrievalDataset

LONGEST = 400


def classes_for(key: str) -> dict[str, type]:
    """The classes that a setting may name, by short name: this package's losses for ``model.loss`` and so on."""
    base, *modules = _CLASSES.get(key, (None,))
    return {
        c.__name__: c
        for c in (_subclasses(base) if base else ())
        if c.__module__.startswith(tuple(modules)) and not inspect.isabstract(c) and c.__name__[0] != "_"
    }


_CLASSES: dict[str, tuple[Any, ...]] = {  # a base class, and modules
    "model.loss": (nn.Module, "lifted_lightning.losses"),
    "model.network": (nn.Module, "lifted_lightning.training.networks"),
    "model.augment": (Augmentation, "lifted_lightning."),
    "data.dataset": (RetrievalDataset, "lifted_lightning."),
    "model.optimizer": (Optimizer, "torch.optim."),
    "model.scheduler": (LRScheduler, "lifted_lightning.", "torch.optim."),
}


def _subclasses(base: type) -> Iterable[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield child
        yield from _subclasses(child)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, if any is like it at all; by its last part where that is dotted."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not close:
        leaves = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.7)]
    return close[0] if close else None


def shorten(message: str, options: Iterable[str], arguments: Iterable[str] = ()) -> str:
    """One line for an error of the command line's parser, with the nearest known name.

    Args:
        message: what the parser says.
        options: the names of all options, ``data.batch_size`` for example.
        arguments: the command line; where the parser says ``margin`` it tells which margin.
    """
    text = " ".join(message.split())
    for pattern, explain in _RULES:
        match = re.search(pattern, text)
        if match:
            return explain(match, list(options), list(arguments))
    return re.sub(r'^Parser key "([^"]+)":', r"--\1:", text)[:LONGEST]


def _in_full(name: str, arguments: Iterable[str]) -> str:
    """``margin`` as it stands on the command line: ``model.loss.margin``."""
    given = (a.split("=", 1)[0].removeprefix("--") for a in arguments if a.startswith("--"))
    return next((g for g in given if g.endswith(f".{name}")), name)


def _unknown_option(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    name = match[1].split("=", 1)[0].removeprefix("--")
    if not match[1].startswith("--") and "unrecognized" in match[0]:
        return f"unexpected argument {match[1]!r}; options begin with --"
    full = _in_full(name, arguments)
    parent = full.rpartition(".")[0]
    known = [o if "." in o or not parent else f"{parent}.{o}" for o in options]
    parameters = [
        p for key in ("model.loss", "model.network", "model.augment", "data.dataset") for p in _parameters(key)
    ]
    close = nearest(full, [*known, *parameters])
    return f"no option --{full}; " + (f"did you mean --{close}?" if close else "see --help")


def _parameters(key: str) -> list[str]:
    found = (p for c in classes_for(key).values() for p in inspect.signature(c).parameters if p != "self")
    return [f"{key}.{name}" for name in found if name not in ("args", "kwargs")]


def _unknown_class(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    key, name = match[1], match[2]
    known = classes_for(key)
    close = nearest(name, known)
    choose = f"choose {', '.join(sorted(known))}, or give a class path" if known else "give MODULE.CLASS"
    hint = f"did you mean {close}?" if close else choose
    return f"--{key}={name}: no such class; {hint}"


def _wrong_value(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    allowed = []
    for kind, choices in re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", match[2]):
        allowed += [kind] if kind else [choice.strip(" '") for choice in choices.split(",")]
    names = ["null" if name == "NoneType" else name for name in dict.fromkeys(allowed)]
    choice = " or ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
    return f"--{_in_full(match[1], arguments)}={match[3][:80]}: give {choice}"


def _import_failed(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    return f"--{match[1]}={match[2]}: cannot be imported ({match[3]}); give MODULE.CLASS, importable from here"


def _callable_missing(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    key, reason, name = match.groups()
    close = nearest(name.rsplit(".", 1)[-1], classes_for(key))
    hint = f"did you mean {close}?" if close else "give MODULE.CLASS, importable from here"
    return f"--{key}={name}: cannot be imported ({reason}); {hint}"


_RULES: list[tuple[str, Callable[[re.Match[str], list[str], list[str]], str]]] = [
    (r"unrecognized arguments: (\S+)", _unknown_option),
    (r"ambiguous option: (\S+) could match", _unknown_option),
    (r"does not accept option '([^']+)'", _unknown_option),
    (r"Option '([^']+)' is not accepted", _unknown_option),
    (
        r"Errors: - ((?:no option )?--[\w.]+.*?) - Expected a <class 'NoneType'> Given value type: "
        r"<class 'jsonargparse",
        lambda m, *_: m[1],  # of the arguments of a class, said already
    ),
    (
        r'Parser key "([^"]+)":.*Errors: (.*(?:<class \'(?:int|float)\'>|typing\.Literal).*) Given value type: '
        r".* Given value: (.*)",
        _wrong_value,
    ),
    (
        r"Parser key \"([^\"]+)\": Not of type NonNegativeInt: (?:invalid literal.*: )?'?([^' ]+)",
        lambda m, *_: f"--{m[1]}={m[2]}: give an int of at least 0",
    ),
    (r'Parser key "([^"]+)": (Expected a typing\.Literal\[.*\])\. Got value: (.*)', _wrong_value),
    (
        r"Parser key \"([^\"]+)\":.*Expected '([^']+)' to be a (?:subclass of|function that returns) "
        r"(?:Union\[|<class ')?(\w+)",
        lambda m, *_: f"--{m[1]}={m[2]}: is no {m[3]}; give the path of such a class",
    ),
    (r'Parser key "([^"]+)":.*Expected a dot import path string: (\S+)', _unknown_class),
    (
        r'Parser key "([^"]+)":.* a callable class: (module .* has no attribute \S+|No module named \S+) - Expected .*'
        r"Given value: (\S+)",
        _callable_missing,
    ),
    (
        r"Parser key \"([^\"]+)\":.*Problem with given class_path '([^']+)': (.*?)(?: - Expected .*)?$",
        _import_failed,
    ),
    (
        r'Parser key "([^"]+)":.*Import path (\S+) does not correspond to a subclass of (\w+)',
        lambda m, *_: f"--{m[1]}={m[2]}: is no {m[3]}; give the path of such a class",
    ),
    (
        r'Parser key "([^"]+)":? Expected a <class \'(\w+)\'>\. Got value: (.*)',
        lambda m, _, given: f"--{_in_full(m[1], given)}={m[3][:80]}: must be of type {m[2]}",
    ),
    (
        r"following arguments are required: (?:\w+\.)??((?:model|data|trainer)\.[\w.]+)",
        lambda m, *_: f"--{m[1]} is missing: give it, or a --config that has it (see experiments/)",
    ),
]


OURS = "lifted_lightning."


MODULES = (f"{OURS}losses.", f"{OURS}training.networks.")


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
        for key in list(vars(previous["init_args"]) if not isinstance(previous, dict) else previous["init_args"]):
            del previous["init_args"][key]


def set_up_parsing() -> None:
    """Have jsonargparse do so. It has no public settings for either; tests guard both."""
    _typehints.get_all_subclass_paths = own_first
    _typehints.discard_init_args_on_class_path_change = start_from_defaults
