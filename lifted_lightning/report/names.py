"""What settings and their values are called in a report, and which setting a name given to ``--by`` means."""

import json
from collections.abc import Sequence
from typing import Any

from lifted_lightning.errors import UserError, did_you_mean
from lifted_lightning.report.read import Run, listed

LOSS = "loss"


def short(key: str) -> str:
    """A setting's own name: ``lr`` for ``model.optimizer.init_args.lr``, ``optimizer`` for its class."""
    return key.removesuffix(".class_path").rsplit(".", 1)[-1]


def words(key: str) -> str:
    """A setting's own name as words."""
    return short(key).replace("_", " ")


def show(value: Any) -> str:
    """A setting's value: a class by its name, numbers in four digits."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and "." in value and " " not in value:
        last = value.rsplit(".", 1)[1]
        return last if last.isidentifier() else value
    return value if isinstance(value, str) else json.dumps(value)


def resolve(key: str, runs: Sequence[Run]) -> str:
    """The setting that a key given to ``--by`` means: in full, or its end where only one has it."""
    keys = list(dict.fromkeys(name for run in runs for name in run.settings))
    if key == LOSS or key in keys:
        return key
    found = [name for name in keys if name.endswith(f".{key}") or name.endswith(f".{key}.class_path")]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"--by {key}: may be {listed(found)}; give more of the name")
    otherwise = "give loss, embedding_size, dataset, or a setting of config.yaml"
    hint = did_you_mean(key, [LOSS, *map(short, keys), *keys], otherwise)
    raise UserError(f"--by {key}: no run has such a setting; {hint}")
