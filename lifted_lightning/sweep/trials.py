"""Trials: what each is known by, its folder, and what is there of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lifted_lightning.errors import UserError
from lifted_lightning.files import read_yaml
from lifted_lightning.runs.folder import CONFIG, METRICS, RESULT, read_metrics
from lifted_lightning.runs.settings import slug
from lifted_lightning.sweep.plan import Sweep, Values

TRIAL = "trial.json"  # the values of a trial, for the searcher of a sweep that goes on
STOPPED = "stopped.json"  # stopped early, by successive halving
LOG = "log.txt"
State = Literal["missing", "begun", "done", "stopped"]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    It is known by the digest of all that it was given: the contents of its configuration files, whatever their
    names, and its arguments, in their order.
    """

    values: Values
    arguments: tuple[str, ...]
    digest: str
    folder: Path

    @property
    def state(self) -> State:
        """What its folder says."""
        if (self.folder / RESULT).exists():
            return "done"
        if (self.folder / STOPPED).exists():
            return "stopped"
        return "begun" if (self.folder / CONFIG).exists() else "missing"

    def scores(self, metric: str) -> list[float]:
        """The metric at each validation so far."""
        return [float(row[metric]) for row in read_metrics(self.folder / METRICS) if row.get(metric)]

    def score(self, metric: str) -> float | None:
        """The metric in the trial's result; None without one, or where it is not finite."""
        if self.state != "done":
            return None
        stage, _, name = metric.partition("/")
        value = read_json(self.folder / RESULT).get(stage, {}).get(name)
        return None if value is None else float(value)


def make_trial(sweep: Sweep, values: Values, parent: Path) -> Trial:
    """The trial of these values; its folder is the one that bears its digest, whatever the rest of its name."""
    arguments = (*sweep.fixed, *ordered_arguments(values))
    digest = digest_of(arguments)
    there = sorted(parent.glob(f"*-{digest}"))
    name = "-".join([label(values, sweep), digest])
    return Trial(values, arguments, digest, there[0] if there else parent / name)


def ordered_arguments(values: Values) -> list[str]:
    """``--key=value`` for each value: files first, then a class before what belongs to it."""
    keys = sorted(values, key=lambda key: (key != "config", key.count(".")))
    return [f"--{key}={_text(values[key])}" for key in keys]


def label(values: Values, sweep: Sweep) -> str:
    """The readable part of a folder's name: what the trials of the sweep differ in."""
    parts = []
    for key, value in values.items():
        parameter = sweep.parameters[key]
        if parameter.kind == "values" and len(parameter.values) == 1:
            continue
        word = key.rsplit(".", 1)[-1].removesuffix("_everything")
        if isinstance(value, str):
            parts.append(Path(value).stem if key == "config" else value.rsplit(".", 1)[-1])
        else:
            parts.append(f"{word}{value:.3g}" if isinstance(value, float) else f"{word}{value}")
    return slug("-".join(parts) or "trial")[:60].strip("-.")


def digest_of(arguments: Iterable[str]) -> str:
    """Ten hexadecimal digits for the arguments, with configuration files by their contents."""
    words, parts = iter(arguments), []
    for word in words:
        name, sign, value = word.partition("=")
        if name not in ("--config", "-c"):
            parts.append(word)
            continue
        parts.append(_canonical_file(value if sign else next(words)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


@cache
def _canonical_file(path: str) -> str:
    return json.dumps(read_yaml(Path(path), f"--config {path}"), sort_keys=True, default=str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def earlier_values(sweep: Sweep, parent: Path) -> list[Values]:
    """The values of the trials of this very sweep that have folders: the same files, within the same ranges."""
    found = []
    for path in sorted(parent.glob(f"*/{TRIAL}"), key=lambda path: path.stat().st_mtime_ns):
        values = read_json(path).get("values", {})
        if _belongs(sweep, values) and make_trial(sweep, values, parent).folder == path.parent:
            found.append(values)
    return found


def _belongs(sweep: Sweep, values: Mapping[str, Any]) -> bool:
    if set(values) != set(sweep.parameters):
        return False
    for name, parameter in sweep.parameters.items():
        value = values[name]
        if parameter.kind == "values" and value not in parameter.values:
            return False
        if parameter.kind != "values" and not parameter.low <= value <= parameter.high:
            return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run.

    Raises:
        UserError: if it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its folder to run the trial again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no JSON object; remove its folder to run the trial again")
    return content
