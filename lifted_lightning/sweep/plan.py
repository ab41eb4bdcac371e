"""Sweep files: W&B's own format, checked before anything starts."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lifted_lightning.errors import UserError, did_you_mean
from lifted_lightning.files import read_yaml

KEYS = (
    *("name", "description", "project", "entity", "program"),
    *("method", "metric", "parameters", "run_cap", "early_terminate", "command"),
)
OWN = ("runs_dir", "experiment", "name", "ckpt_path")  # of `lifted fit`, which the sweep itself sets
Kind = Literal["values", "int", "float"]
Values = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """What one parameter may be: one of ``values``, or a number from ``low`` to ``high``."""

    kind: Kind
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None

    def examples(self) -> tuple[Any, ...]:
        """Values that the command line must accept if it accepts all."""
        if self.kind == "values":
            return self.values
        number = int if self.kind == "int" else float
        return (number(self.low), number(self.high))


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving: at ``least`` validations, and at each ``factor`` times as many."""

    least: int
    factor: int


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file.

    ``fixed`` are the arguments that every trial has; ``metric`` is a name in ``metrics.csv``.
    """

    path: Path
    name: str
    method: Literal["grid", "random", "bayes"]
    metric: str | None
    maximize: bool
    parameters: dict[str, Parameter]
    fixed: tuple[str, ...]
    run_cap: int | None
    halving: Halving | None

    def grid(self) -> Iterator[Values]:
        """All combinations, the last parameter changing fastest."""
        names = list(self.parameters)
        for values in itertools.product(*(self.parameters[name].values for name in names)):
            yield dict(zip(names, values, strict=True))

    def examples(self) -> Iterator[Values]:
        """Trials in which each parameter takes each value, or each end of its range, at least once."""
        first = {name: parameter.examples()[0] for name, parameter in self.parameters.items()}
        yield first
        for name, parameter in self.parameters.items():
            for value in parameter.examples()[1:]:
                yield first | {name: value}


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        UserError: naming the file, the entry, and what it should be.
    """
    content = read_yaml(path, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no sweep file; it needs method and parameters")
    try:
        return _sweep(path, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _sweep(path: Path, content: dict[str, Any]) -> Sweep:
    for key in content:
        _known(key, KEYS, "entry")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise UserError(f"method {method!r}: give grid, random or bayes")
    given = content.get("parameters")
    if not isinstance(given, Mapping) or not given:
        raise UserError("parameters: give at least one")
    parameters = dict(_parameters(given))
    ranges = [name for name, parameter in parameters.items() if parameter.kind != "values"]
    if method == "grid" and ranges:
        raise UserError(f"parameters.{ranges[0]}: a grid needs values, not a range")
    run_cap = content.get("run_cap")
    if run_cap is None and method != "grid":
        raise UserError(f"run_cap: method {method} draws without end; say how many trials")
    if run_cap is not None and (not isinstance(run_cap, int) or run_cap < 1):
        raise UserError(f"run_cap {run_cap!r}: give a whole number of at least 1")
    metric, maximize = _metric(content.get("metric"))
    halving = _halving(content.get("early_terminate"))
    if metric is None and (method == "bayes" or halving):
        raise UserError("metric: give the name and goal to choose by, for instance validation/map@r")
    if metric is not None and metric.startswith("test/") and (method == "bayes" or halving):
        raise UserError(f"metric.name {metric}: the test classes choose nothing; give a validation metric")
    fixed = _command(content.get("command"))
    for name in [*parameters, *(a.lstrip("-").split("=")[0] for a in fixed if a.startswith("-"))]:
        if name in OWN:
            raise UserError(f"{name}: is set by the sweep itself; leave it out")
    return Sweep(path, content.get("name") or path.stem, method, metric, maximize, parameters, fixed, run_cap, halving)


def _known(name: str, names: tuple[str, ...], what: str) -> None:
    if name not in names:
        raise UserError(f"{name}: no such {what}; {did_you_mean(name, names, 'leave it out')}")


def _parameters(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    for key, entry in given.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, Mapping):
            raise UserError(f"parameters.{name}: give value, values, or min and max")
        if "parameters" in entry:
            yield from _parameters(entry["parameters"], f"{name}.")
            continue
        try:
            yield name, _parameter(entry)
        except UserError as error:
            raise UserError(f"parameters.{name}: {error}") from error


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    for key in entry:
        _known(key, ("value", "values", "min", "max", "distribution", "q"), "setting of a parameter")
    if "value" in entry:
        return Parameter("values", (entry["value"],))
    if "values" in entry:
        values = entry["values"]
        if not isinstance(values, list) or not values:
            raise UserError("values: give a list of at least one")
        return Parameter("values", tuple(values))
    try:
        low, high, step = float(entry["min"]), float(entry["max"]), entry.get("q")
    except (KeyError, TypeError, ValueError):
        raise UserError("give value, values, or numbers min and max") from None
    if not low < high:
        raise UserError(f"min {low:g} is not below max {high:g}")
    whole = isinstance(entry["min"], int) and isinstance(entry["max"], int)
    distribution = entry.get("distribution", "int_uniform" if whole else "uniform")
    if distribution == "int_uniform":
        return Parameter("int", low=low, high=high)
    if distribution in ("uniform", "q_uniform"):
        return Parameter("float", low=low, high=high, step=None if step is None else float(step))
    if distribution == "log_uniform":
        return Parameter("float", low=math.exp(low), high=math.exp(high), log=True)
    if distribution == "log_uniform_values" and low > 0:
        return Parameter("float", low=low, high=high, log=True)
    raise UserError(
        f"distribution {distribution}: give int_uniform, uniform, q_uniform, or, above 0, log_uniform_values"
    )


def _metric(given: Any) -> tuple[str | None, bool]:
    if given is None:
        return None, True
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UserError("metric: give a name and a goal")
    goal = given.get("goal", "minimize")  # W&B's own default
    if goal not in ("maximize", "minimize"):
        raise UserError(f"metric.goal {goal!r}: give maximize or minimize")
    return given["name"], goal == "maximize"


def _halving(given: Any) -> Halving | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise UserError("early_terminate.type: only hyperband is known")
    factor = int(given.get("eta", 3))
    if "min_iter" in given:
        least = int(given["min_iter"])
    elif "max_iter" in given:
        least = max(1, int(given["max_iter"]) // factor ** int(given.get("s", 1)))
    else:
        raise UserError("early_terminate: give min_iter, or max_iter and s")
    if least < 1 or factor < 2:
        raise UserError("early_terminate: give a min_iter of at least 1, and an eta of at least 2")
    return Halving(least, factor)


def _command(given: Any) -> tuple[str, ...]:
    """The arguments of `lifted fit` in W&B's ``command``, without its marks."""
    if not isinstance(given, list) or "lifted" not in given or "${args}" not in given:
        raise UserError("command: give [${env}, lifted, fit, --config, FILE, ${args}]")
    words = [str(word) for word in given]
    after = words[words.index("lifted") + 1 :]
    if after[:1] != ["fit"] or after[-1] != "${args}":
        raise UserError("command: lifted must be followed by fit, and ${args} must come last")
    return tuple(after[1:-1])
