"""What commands make of their arguments, and say of wrong ones: one line that names the thing and the remedy.

Nothing heavy is imported here until it is needed: `lifted data`, `report`, `sweep` and the like start without torch.
"""

import argparse
import importlib.util
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from lifted_lightning.errors import UserError, did_you_mean, one_line
from lifted_lightning.files import read_yaml
from lifted_lightning.runs.settings import added_since, flatten


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are the user's: one line, without the usage, and exit code 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if "" in (args or ()):  # which Path takes for the working folder
            self.error("an argument is empty, maybe a variable of the shell that is not set")
        return super().parse_known_args(args, namespace)

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
        configuration that has one; all other arguments, the first being what a run's configuration is too old to have.

    Raises:
        UserError: for a configuration that cannot be read.
    """
    parser = CommandParser("lifted fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model_class", dest="model_class")
    parser.add_argument("--config", "-c", action="append", default=[])
    known, options = parser.parse_known_args(arguments)
    model_class = known.model_class
    given: dict[str, Any] = {}
    for config in reversed(known.config):
        settings = read_yaml(Path(config), f"--config {config}")
        if not isinstance(settings, dict):
            raise UserError(f"--config {config}: holds no settings; see experiments/quickstart.yaml for some")
        model_class = model_class or settings.get("model_class")
        given = flatten(settings) | given
    added = added_since(given)
    if model_class:  # which need not take all that EmbeddingModule does; its defaults are what they were before
        added = {name: value for name, value in added.items() if not re.fullmatch(r"model\.\w+", name)}
    return known.config, model_class, [*(f"--{k}={'null' if v is None else v}" for k, v in added.items()), *options]


def import_class(path: str, base: type) -> Any:
    """The class of ``--model=MODULE.CLASS``.

    Raises:
        UserError: if it cannot be imported or is no subclass of ``base``.
    """
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--model={path}: cannot be imported ({error}); give an importable MODULE.CLASS") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"--model={path}: is no subclass of lifted_lightning.{base.__name__}")
    return found


def name_classes(value: Any, key: str) -> Any:
    """A loss's settings with class paths, which arrive as texts where a parameter has no type, as classes to be made.

    So a loss of pytorch-metric-learning takes a distance, or a loss, by its path.

    Args:
        value: a setting, or several in a mapping or a list.
        key: its name, for messages.

    Raises:
        UserError: for a path into a package that is there that leads to nothing.
    """
    if isinstance(value, list):
        return [name_classes(item, key) for item in value]
    if hasattr(value, "items"):
        for name, item in list(vars(value).items() if hasattr(value, "__dict__") else value.items()):
            if name != "class_path":
                value[name] = name_classes(item, key if name == "init_args" else f"{key}.{name}")
    if not (isinstance(value, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value)):
        return value
    try:
        found = resolve_name(value)
    except (ImportError, AttributeError) as error:
        if importlib.util.find_spec(value.split(".")[0]) is None:
            return value
        raise UserError(f"--{key}={value}: cannot be imported ({error}); give an importable MODULE.CLASS") from error
    return {"class_path": value} if isinstance(found, type) else value


# What is said of what jsonargparse refuses


def shorten(message: str, options: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """One line for an error of jsonargparse's, with the nearest known name. What no rule here knows is cut.

    Args:
        message: what it says.
        options: the names of the parser's options, ``data.batch_size`` for example.
        arguments: the command line; where jsonargparse says ``margin`` it tells which margin.
    """
    text = " ".join(message.split())
    given = [argument.split("=", 1)[0].removeprefix("--") for argument in arguments if argument.startswith("--")]

    def in_full(name: str) -> str:
        return next((g for g in given if g.endswith(f".{name}")), name)

    if found := re.search(r"(?:unrecognized arguments: --|accept option '|Option ')([^\s'=]+)", text):
        return _unknown_option(in_full(found[1]), options)
    if found := re.search(r"following arguments are required: ([\w.]+)", text):
        name = next((option for option in _class_options() if option.endswith(f".{found[1]}")), found[1])
        return f"--{name} is missing: give it, or a --config that has it (see experiments/)"
    # Of an option of a class: said already, and told among what else might stand in the place of the class.
    if found := re.search(r"- ((?:no option )?--[\w.]+.*?)(?= - | Given value type)", text):
        return found[1]
    reason = (
        r"dot import path|No module named \S+|module \S+ has no attribute [^\s.]+|No \S+ attribute [^\s.]+|"
        r"(?:subclass of|returns) (?:<class '|Union\[)?(\w+)"
    )
    if found := re.search(rf'^Parser key "(\S+)":(?! Not a valid|.*<class .(?:int|float)).*({reason})', text):
        return _wrong_class(in_full(found[1]), found[2], found[3], text)
    for pattern, plain in (
        (r"- Expected a path but .* invalid - |Does not validate against .*? Errors: - ", ""),
        (r"<class '(\w+)'>|typing\.(?=Literal)", r"\1"),
        (r" Given value type: .* Given value: ", ". Got value: "),
    ):
        text = re.sub(pattern, plain, text)
    return one_line(re.sub(r'^Parser key "(\S+)":', lambda key: f"--{in_full(key[1])}:", text), 400)


def _unknown_option(name: str, options: Sequence[str]) -> str:
    parent, others = name.rpartition(".")[0], _class_options()
    if name in others:
        return f"no option --{name} of the class chosen, but of {', '.join(others[name])}; leave it out"
    if parent and "seed_everything" not in options:  # they are those of a class, whose parser says margin
        options = [option if "." in option else f"{parent}.{option}" for option in options]
    known = [] if name in options else [*options, *others]  # it may be one in another place
    return f"no option --{name}; {did_you_mean(name, known, 'see --help', '--')}"


def _wrong_class(key: str, reason: str, kind: str | None, text: str) -> str:
    named = (
        r"string: (\S+)|class_path '([^']+)'|path (\S+) does|'([^']+)' to be|"
        r"value: (?:Namespace\(class_path=')?([^\s']+)"
    )
    path = next((part for found in re.findall(named, text) for part in found if part), "")
    if kind:
        return f"--{key}={path}: is no {kind}; give the path of such a class"
    known, choose = classes_for(key), "give MODULE.CLASS, importable from here"
    if "." not in path:
        reason = "no such class"
        choose = f"choose {', '.join(sorted(known))}, or give MODULE.CLASS" if known else choose
    if path.startswith("pytorch_metric_learning.") and "No module named" in reason:
        return f"--{key}={path}: needs pytorch-metric-learning: pip install pytorch-metric-learning"
    return f"--{key}={path}: cannot be imported ({reason}); {did_you_mean(path.rsplit('.', 1)[-1], known, choose)}"


def retell(error: ValueError) -> NoReturn:
    """Raise what a class said of its settings, out of jsonargparse's words where the class might be left out."""
    said = re.search(r"Union subtypes .*? Errors: - (.*?) - Expected a <class 'NoneType'>", one_line(error, 9999))
    if said is None:
        raise error
    raise UserError(said[1]) from error


# Classes by their short names

_OURS = "lifted_lightning."
_CLASSES = {  # the modules whose classes a setting may name by their names alone
    "model.loss": ("lifted_lightning.losses",),
    "model.network": ("lifted_lightning.training.networks",),
    "model.network.pooling": ("lifted_lightning.training.pooling",),
    "model.augment": ("lifted_lightning.data.augment",),
    "model.optimizer": ("torch.optim",),
    "model.scheduler": ("lifted_lightning.training.schedules", "torch.optim.lr_scheduler"),
    "data.dataset": ("lifted_lightning.data.datasets",),
    "data.sampler": ("lifted_lightning.data.batches",),
}
_BASES = ("Augmentation", "Embedder", "GlobalBatchSampler", "LRScheduler", "Optimizer", "Pooled", "Pooling")
_TOLD = ("model.loss.num_classes", "model.loss.embedding_size")  # by the data and the network, not by the user
_NOT_OFFERED = ("torch.", "torchvision.", "torchmetrics.", "pytorch_lightning.", "lightning_fabric.", "timm.")


def classes_for(key: str) -> dict[str, type]:
    """The classes that a setting may name, by short name: this package's losses for ``model.loss`` and so on."""
    return {
        name: found
        for module in _CLASSES.get(key, ())
        for name, found in vars(importlib.import_module(module)).items()
        if inspect.isclass(found) and found.__module__.startswith(module)
        if not (inspect.isabstract(found) or name.startswith("_") or name in _BASES)
    }


def _class_options() -> dict[str, list[str]]:
    """The options of this package's classes, ``model.loss.margin`` and so on, and the classes that have each."""
    options: dict[str, list[str]] = {}
    for key, modules in _CLASSES.items():
        for class_name, found in classes_for(key).items() if modules[0].startswith(_OURS) else ():
            for name in inspect.signature(found).parameters:
                if name not in ("self", "args", "kwargs") and f"{key}.{name}" not in _TOLD:
                    options.setdefault(f"{key}.{name}", []).append(class_name)
    return options


def set_up_parsing() -> None:
    """Have jsonargparse know our classes, and first, and forget a class's settings when another is chosen.

    It has no public settings for the last two; tests guard both.
    """
    from jsonargparse import _typehints, set_parsing_settings
    from torch import nn

    set_parsing_settings(validate_subclass_spec_in_any=True, instantiate_subclass_spec_in_any=True)

    for key in _CLASSES:
        classes_for(key)  # imports them: a class has a short name from then on
    all_paths = _typehints.get_all_subclass_paths
    if all_paths.__module__ == __name__:
        return
    modules = {*classes_for("model.loss"), *classes_for("model.network")}

    def own_first(*args: Any, **kwargs: Any) -> list[str]:
        # pytorch-metric-learning has a ContrastiveLoss and a LiftedStructureLoss too, and once a user's file imports
        # it the bare name would be refused. A class of another library is always to be had by its full path.
        paths = all_paths(*args, **kwargs)
        names = {path.rsplit(".", 1)[1] for path in paths if path.startswith(_OURS)}
        paths = [path for path in paths if path.startswith(_OURS) or path.rsplit(".", 1)[1] not in names]
        if args[0] is not nn.Module:
            return paths
        own = [path for path in paths if path.startswith(_OURS) and path.rsplit(".", 1)[1] in modules]
        return own + [path for path in paths if not path.startswith((_OURS, *_NOT_OFFERED))]

    def start_from_defaults(parser: Any, previous: Any, chosen: Any) -> None:
        # jsonargparse keeps the settings that both classes have: `--model.loss=TripletLoss` over a configuration of
        # the lifted loss would train with that loss's margin, said or by default, and nobody would see it.
        if previous and "init_args" in previous and previous["class_path"] != chosen["class_path"]:
            previous["init_args"] = type(previous["init_args"])()

    _typehints.get_all_subclass_paths = own_first
    _typehints.discard_init_args_on_class_path_change = start_from_defaults
