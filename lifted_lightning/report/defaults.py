"""Options that a run's version of this package did not have yet: what they say by default."""

import inspect
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from typing import Any

OWN = "lifted_lightning."
PLACES = ("model.loss", "model.network", "model.augment")


def complete(runs: Iterable[dict[str, Any]]) -> None:
    """Give each run's settings the options that other runs of the same class have and it does not.

    A new option keeps, by default, what was there before it; so a run from before is not another for want of it.
    Classes of others are left alone. Nothing is imported where no run lacks an option.

    Args:
        runs: flattened settings, changed in place.
    """
    classes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for settings in runs:
        for place in PLACES:
            path = settings.get(f"{place}.class_path")
            if isinstance(path, str) and path.startswith(OWN):
                classes[place, path].append(settings)
    for (place, path), having in classes.items():
        start = f"{place}.init_args."
        names = {key.removeprefix(start) for settings in having for key in settings if key.startswith(start)}
        lacking = [settings for settings in having if any(start + name not in settings for name in names)]
        defaults = _defaults(path) if lacking else {}
        for settings in lacking:
            for name in names & defaults.keys():
                settings.setdefault(start + name, defaults[name])


def _defaults(path: str) -> dict[str, Any]:
    """What a class's arguments are by default; nothing where this version has no such class."""
    module, _, name = path.rpartition(".")
    try:
        arguments = inspect.signature(getattr(import_module(module), name)).parameters.values()
    except (ImportError, AttributeError):
        return {}
    return {a.name: a.default for a in arguments if isinstance(a.default, bool | int | float | str)}
