"""Sweep files: W&B's own format, checked before anything starts."""

import itertools
import math
import re
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

    def allows(self, value: Any) -> bool:
        """Whether it may be this."""
        if self.kind == "values":
            return value in self.values
        return isinstance(value, int | float) and self.low <= value <= self.high


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
    parameters: dict[str, Parameter]
    metric: str | None
    maximize: bool = True
    fixed: tuple[str, ...] = ()
    run_cap: int | None = None
    halving: Halving | None = None

    def grid(self) -> Iterator[Values]:
        """All combinations, the last parameter changing fastest."""
        names = list(self.parameters)
        for values in itertools.product(*(self.parameters[name].values for name in names)):
            yield dict(zip(names, values, strict=True))

    def allows(self, values: Values) -> bool:
        """Whether it could draw these."""
        names = values.keys() == self.parameters.keys()
        return names and all(parameter.allows(values[name]) for name, parameter in self.parameters.items())

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
    _check_known(content, KEYS, "entry")
    method, given, run_cap = content.get("method"), content.get("parameters"), content.get("run_cap")
    if method not in ("grid", "random", "bayes"):
        raise UserError(f"method {method!r}: give grid, random or bayes")
    if not isinstance(given, Mapping) or not given:
        raise UserError("parameters: give at least one")
    parameters = dict(_parameters(given))
    for name, parameter in parameters.items():
        if method == "grid" and parameter.kind != "values":
            raise UserError(f"parameters.{name}: a grid needs values, not a range")
    if run_cap is None and method != "grid":
        raise UserError(f"run_cap: method {method} draws without end; say how many trials")
    if run_cap is not None:
        _check_whole("run_cap", run_cap, 1)
    metric, maximize = _metric(content.get("metric"))
    halving = _halving(content.get("early_terminate"))
    if metric is None and (method == "bayes" or halving):
        raise UserError("metric: give the name and goal to choose by, for instance validation/map@r")
    if metric is not None and metric.startswith("test/") and (method == "bayes" or halving):
        raise UserError(f"metric.name {metric}: the test classes choose nothing; give a validation metric")
    fixed = _command(content.get("command"))
    given_names = {*parameters, *(word.lstrip("-").split("=")[0] for word in fixed if word.startswith("-"))}
    for name in given_names.intersection(OWN):
        raise UserError(f"{name}: is set by the sweep itself; leave it out")
    name = str(content.get("name") or path.stem)
    return Sweep(path, name, method, parameters, metric, maximize, fixed, run_cap, halving)


def _check_known(given: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in given:
        if name not in names:
            raise UserError(f"{name}: no such {what}; {did_you_mean(str(name), names, 'leave it out')}")


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UserError(f"{name} {value!r}: give a whole number of at least {least}")


def _parameters(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    for key, entry in given.items():
        name = f"{prefix}{key}"
        if isinstance(entry, Mapping) and "parameters" in entry:
            yield from _parameters(entry["parameters"], f"{name}.")
            continue
        try:
            yield name, _parameter(entry)
        except UserError as error:
            raise UserError(f"parameters.{name}: {error}") from error


def _parameter(entry: Any) -> Parameter:
    if not isinstance(entry, Mapping):
        raise UserError("give value, values, or min and max")
    _check_known(entry, ("value", "values", "min", "max", "distribution", "q"), "setting of a parameter")
    if "value" in entry or "values" in entry:
        values = entry.get("values", [entry.get("value")])
        if not isinstance(values, list) or not values:
            raise UserError("values: give a list of at least one")
        return Parameter("values", tuple(values))
    try:
        low, high, step = float(entry["min"]), float(entry["max"]), float(entry.get("q", 1))
    except (KeyError, TypeError, ValueError):
        raise UserError("give value, values, or numbers min and max, and q if any") from None
    if not 0 < step < math.inf:
        raise UserError(f"q {step:g}: give a step above 0")
    if not -math.inf < low < high < math.inf:
        raise UserError(f"min {low:g} is not below max {high:g}")
    whole = isinstance(entry["min"], int) and isinstance(entry["max"], int)
    distribution = entry.get("distribution", "int_uniform" if whole else "uniform")
    if "q" in entry and distribution not in ("uniform", "q_uniform"):
        raise UserError(f"q {step:g}: is no setting of {distribution}; leave it out, or give distribution: q_uniform")
    if distribution == "int_uniform":
        if not (low.is_integer() and high.is_integer()):
            raise UserError(f"min {low:g}, max {high:g}: give whole numbers, or distribution: uniform")
        return Parameter("int", low=low, high=high)
    if distribution in ("uniform", "q_uniform"):
        return Parameter("float", low=low, high=high, step=step if "q" in entry else None)
    if distribution == "log_uniform" and high < 700:  # of natural logarithms
        return Parameter("float", low=math.exp(low), high=math.exp(high), log=True)
    if distribution == "log_uniform_values" and low > 0:
        return Parameter("float", low=low, high=high, log=True)
    known = "int_uniform, uniform, q_uniform, or, above 0, log_uniform_values"
    raise UserError(f"distribution {distribution}: give {known}")


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
    if "min_iter" not in given and "max_iter" not in given:
        raise UserError("early_terminate: give min_iter, or max_iter and s")
    factor, least = given.get("eta", 3), given.get("min_iter", given.get("max_iter"))
    _check_whole("early_terminate.eta", factor, 2)
    _check_whole("early_terminate.min_iter or max_iter", least, 1)
    if "min_iter" not in given:
        _check_whole("early_terminate.s", given.get("s", 1), 0)
        least = max(1, least // factor ** given.get("s", 1))
    return Halving(least, factor)


def _command(given: Any) -> tuple[str, ...]:
    """The arguments of `lifted fit` in W&B's ``command``, without its marks; a file as one word, ``--config=FILE``."""
    words = [str(word) for word in given] if isinstance(given, list) else []
    if "lifted" not in words or words[-1] != "${args}" or words[words.index("lifted") + 1] != "fit":
        raise UserError("command: give [${env}, lifted, fit, --config, FILE, ${args}]")
    line = "\0".join(words[words.index("lifted") + 2 : -1])
    return tuple(re.sub(r"(?<![^\0])(--config|-c)[\0=]", "--config=", line).split("\0")) if line else ()
