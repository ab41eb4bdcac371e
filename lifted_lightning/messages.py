"""From the errors of the parser and of torch to one line that a person can act upon."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

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
    "model.network": (nn.Module, "lifted_lightning.networks"),
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
        close = [
            leaves[leaf]
            for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.7)
        ]
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
        p
        for key in ("model.loss", "model.network", "model.augment", "data.dataset")
        for p in _parameters(key)
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
    for kind, choices in re.findall(
        r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", match[2]
    ):
        allowed += [kind] if kind else [choice.strip(" '") for choice in choices.split(",")]
    names = ["null" if name == "NoneType" else name for name in dict.fromkeys(allowed)]
    choice = " or ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
    return f"--{_in_full(match[1], arguments)}={match[3][:80]}: give {choice}"


def _import_failed(match: re.Match[str], options: list[str], arguments: list[str]) -> str:
    return (
        f"--{match[1]}={match[2]}: cannot be imported ({match[3]}); give MODULE.CLASS, importable from here"
    )


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
