"""What commands make of their arguments, and say of wrong ones: one line that names the thing and the remedy.

Nothing heavy is imported here until it is needed: `lifted data`, `report`, `sweep` and the like start without torch.
"""

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from lifted_lightning.errors import UserError, did_you_mean, one_line
from lifted_lightning.files import read_yaml

# Settings that are no more, each with its new name or with what to do instead. An old one is refused in one line,
# whether it stands on the command line or in a configuration, the `config.yaml` of an old run for example.
MOVED: dict[str, str] = {
    "data.sampling": "is --data.sampler now, PositivePairs (it was balanced) or ReleasedPairs (it was released)",
    "data.samples_per_class": "is --data.sampler.samples_per_class now",
    "data.neighbours": "is --data.sampler.neighbours now",
    "data.refresh_interval": "is --data.sampler.refresh_interval now",
    "data.class_weights": "is --data.sampler.class_weights now",
    "weights_only": "leave it out: it is always true",
    "return_predictions": "leave it out: lifted predict writes a file",
    "verbose": "leave it out",
}


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are the user's: one line, without the usage, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        known = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known = known.union(*(sub._option_string_actions for sub in action.choices.values()))
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        remedy = f"see {self.prog} --help"
        raise UserError(f"{message}; {did_you_mean(unknown[1], sorted(known), remedy) if unknown else remedy}")


# What `lifted fit` is given


def split(arguments: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Take apart a command line of `lifted fit`, and look into its configurations.

    ``--model=my_file.MyModule`` is short for ``--model_class=my_file.MyModule``.

    Returns:
        The paths of the configurations; the class path of the module, from the command line or else from the last
        configuration that has one; all other arguments.

    Raises:
        UserError: for a configuration that cannot be read, and for a setting that has moved.
    """
    parser = CommandParser("lifted fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model_class", dest="model_class")
    parser.add_argument("--config", "-c", action="append", default=[])
    known, options = parser.parse_known_args(arguments)
    names = (option.removeprefix("--").split("=")[0].rstrip("+") for option in options if option.startswith("--"))
    refuse_moved(names, "--")
    model_class = known.model_class
    for config in reversed(known.config):
        settings = read_yaml(Path(config), f"--config {config}")
        if not isinstance(settings, dict):
            raise UserError(f"--config {config}: holds no settings; see experiments/quickstart.yaml for some")
        refuse_moved(_dotted(settings), f"--config {config}: ")
        model_class = model_class or settings.get("model_class")
    return known.config, model_class, options


def refuse_moved(names: Iterable[str], where: str) -> None:
    """Raise UserError, with what to give instead, if any of the names is that of a setting that has moved."""
    moved = [f"{where}{name}: {MOVED[name]}" for name in names if name in MOVED]
    if moved:
        raise UserError("; ".join(moved))


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """The names of all settings as they are on the command line, those of groups and classes too."""
    for key, value in settings.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        yield name
        if isinstance(value, Mapping):
            yield from _dotted(value, name)


def import_class(path: str, base: type) -> Any:
    """The class of ``--model=MODULE.CLASS``.

    Raises:
        UserError: if it cannot be imported or is no subclass of ``base``.
    """
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--model={path}: cannot be imported ({error}); give MODULE.CLASS, importable from here"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"--model={path}: is no subclass of lifted_lightning.{base.__name__}")
    return found


# What is said of what jsonargparse refuses


def shorten(message: str, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """One line for an error of jsonargparse's, with the nearest known name.

    Args:
        message: what it says.
        options: the names of the parser's options, ``data.batch_size`` for example.
        arguments: the command line; where jsonargparse says ``margin`` it tells which margin.
    """
    text = " ".join(message.split())
    for pattern, explain in _RULES:
        match = re.search(pattern, text)
        if match:
            return explain(match, options, arguments)
    text = re.sub(r"Does not validate against .*? Errors: - | Given value type: .*", "", text)
    return one_line(re.sub(r'^Parser key "([^"]+)":', lambda m: f"--{_in_full(m[1], arguments)}:", text))


def _in_full(name: str, arguments: Sequence[str]) -> str:
    """``margin`` as it stands on the command line: ``model.loss.margin``."""
    given = (a.split("=", 1)[0].removeprefix("--") for a in arguments if a.startswith("--"))
    return next((g for g in given if g.endswith(f".{name}")), name)


def _unknown_option(match: re.Match[str], options: Sequence[str], arguments: Sequence[str]) -> str:
    if "unrecognized" in match[0] and not match[1].startswith("--"):
        return f"unexpected argument {match[1]!r}; options begin with --"
    name = _in_full(match[1].split("=", 1)[0].removeprefix("--"), arguments)
    parent = name.rpartition(".")[0]
    known = [option if "." in option or not parent else f"{parent}.{option}" for option in options]
    return f"no option --{name}; {did_you_mean(name, [*known, *_parameters()], 'see --help', '--')}"


def _wrong_class(match: re.Match[str], options: Sequence[str], arguments: Sequence[str]) -> str:
    key, reason = match[1], match[2]
    name = re.findall(r"string: (\S+)|class_path '([^']+)'|path (\S+) does|'([^']+)' to be|value: (\S+)", match[0])
    path = next(filter(None, name[0]))
    known = classes_for(key)
    choose = f"choose {', '.join(sorted(known))}, or give MODULE.CLASS" if known else "give MODULE.CLASS"
    if reason.startswith("Expected"):
        return f"--{key}={path}: no such class; {did_you_mean(path, known, choose)}"
    if "subclass" in reason or "function" in reason:
        kind = re.split(r"[\[' ]", reason)[-1]
        return f"--{key}={path}: is no {kind}; give the path of such a class"
    hint = did_you_mean(path.rsplit(".", 1)[-1], known, "give MODULE.CLASS, importable from here")
    return f"--{key}={path}: cannot be imported ({reason}); {hint}"


def _wrong_value(match: re.Match[str], options: Sequence[str], arguments: Sequence[str]) -> str:
    kinds: list[str] = []
    for kind, choices in re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", match[0]):
        kinds += [kind] if kind else [choice.strip(" '") for choice in choices.split(",")]
    names = ["null" if kind == "NoneType" else kind for kind in dict.fromkeys(kinds)]
    choice = " or ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])
    return f"--{_in_full(match[1], arguments)}={match[2][:80]}: give {choice}"


def _missing(match: re.Match[str], options: Sequence[str], arguments: Sequence[str]) -> str:
    name = next((p for p in _parameters() if p.endswith(f".{match[1]}")), match[1])
    return f"--{name} is missing: give it, or a --config that has it (see experiments/)"


_RULES: tuple[tuple[str, Callable[[re.Match[str], Sequence[str], Sequence[str]], str]], ...] = (
    (r"(?:unrecognized arguments: |ambiguous option: |not accept option '|Option ')([^\s']+)", _unknown_option),
    # Of an option of a class: said already, and now told among what else the class's place might hold.
    (r"- ((?:no option )?--[\w.]+.*?)(?= - | Given value type)", lambda match, *_: match[1]),
    (
        r"Parser key \"([^\"]+)\":(?=.*(?:<class '(?:int|float)'>|typing\.Literal|<class '\w+'>\. Got)).* value: (.*)",
        _wrong_value,
    ),
    (
        r'Parser key "([^"]+)":.*?(Expected a dot import path|module \S+ has no attribute [^\s.]+|No module named \S+|'
        r"(?:subclass of|function that returns) (?:Union\[|<class ')?\w+).*",
        _wrong_class,
    ),
    (r"following arguments are required: ([\w.]+)", _missing),
)


# Classes by their short names

_OURS = "lifted_lightning."
_CLASSES = {  # where a setting's classes are looked for: their base, and the modules that they are offered from
    "model.loss": ("torch.nn:Module", "lifted_lightning.losses"),
    "model.network": ("torch.nn:Module", "lifted_lightning.training.networks"),
    "model.augment": ("lifted_lightning:Augmentation", _OURS),
    "data.dataset": ("lifted_lightning:RetrievalDataset", _OURS),
    "data.sampler": ("lifted_lightning:GlobalBatchSampler", _OURS),
    "model.optimizer": ("torch.optim:Optimizer", "torch.optim."),
    "model.scheduler": ("torch.optim.lr_scheduler:LRScheduler", _OURS, "torch.optim."),
}
_HOMES = (f"{_OURS}losses.", f"{_OURS}training.networks.")  # of those of our modules that a setting may name
_NOT_OFFERED = ("torch.", "torchvision.", "torchmetrics.", "pytorch_lightning.", "lightning_fabric.", "timm.")


def classes_for(key: str) -> dict[str, type]:
    """The classes that a setting may name, by short name: this package's losses for ``model.loss`` and so on."""
    if key not in _CLASSES:
        return {}
    base, *modules = _CLASSES[key]
    return {
        found.__name__: found
        for found in _subclasses(resolve_name(base))
        if found.__module__.startswith(tuple(modules)) and not inspect.isabstract(found) and found.__name__[0] != "_"
    }


def _subclasses(base: type) -> Iterable[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield child
        yield from _subclasses(child)


def _parameters() -> list[str]:
    """The options of the classes that a run's main settings may name: ``model.loss.margin`` and so on."""
    return [
        f"{key}.{name}"
        for key in ("model.loss", "model.network", "model.augment", "data.dataset", "data.sampler")
        for found in classes_for(key).values()
        for name in inspect.signature(found).parameters
        if name not in ("self", "args", "kwargs")
    ]


def set_up_parsing() -> None:
    """Have jsonargparse know our classes first, and forget a class's settings when another is chosen.

    It has no public settings for either; tests guard both.
    """
    from jsonargparse import _typehints
    from torch import nn

    all_paths = _typehints.get_all_subclass_paths
    if all_paths.__module__ == __name__:
        return

    def own_first(*args: Any, **kwargs: Any) -> list[str]:
        # pytorch-metric-learning has a ContrastiveLoss and a LiftedStructureLoss too, and once a user's file imports
        # it the bare name would be refused. A class of another library is always to be had by its full path.
        paths = all_paths(*args, **kwargs)
        names = {path.rsplit(".", 1)[1] for path in paths if path.startswith(_OURS)}
        paths = [path for path in paths if path.startswith(_OURS) or path.rsplit(".", 1)[1] not in names]
        if args[0] is not nn.Module:
            return paths
        # The parser has the shortest path to a class; where ours is defined says what it is.
        homes = {path: f"{resolve_name(path).__module__}." if path.startswith(_OURS) else path for path in paths}
        return [p for p in paths if homes[p].startswith(_HOMES) or not homes[p].startswith((_OURS, *_NOT_OFFERED))]

    def start_from_defaults(parser: Any, previous: Any, chosen: Any) -> None:
        # jsonargparse keeps the settings that both classes have: `--model.loss=TripletLoss` over a configuration of
        # the lifted loss would train with that loss's margin, said or by default, and nobody would see it.
        if previous and "init_args" in previous and previous["class_path"] != chosen["class_path"]:
            previous["init_args"] = type(previous["init_args"])()

    _typehints.get_all_subclass_paths = own_first
    _typehints.discard_init_args_on_class_path_change = start_from_defaults
