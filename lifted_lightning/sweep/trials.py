"""Trials: what each is known by, its folder, and what is there of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic, read_yaml
from lifted_lightning.runs.folder import CONFIG, METRICS, RESULT, read_metrics, write_json
from lifted_lightning.runs.settings import slug
from lifted_lightning.sweep.plan import Sweep, Values

BEST = "best.yaml"  # in a sweep's folder, once a search has ended: the settings that it found
TRIAL = "trial.json"  # in a trial's folder: all that it was given, and where it was stopped early
State = Literal["missing", "begun", "done", "stopped"]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        values: of the sweep's parameters.
        arguments: of `lifted fit`, in their order.
        files: what the configuration files among them hold, as JSON, by the arguments that name them.
        digest: of all these; the trial is known by it.
        folder: of the run.
    """

    values: Values
    arguments: tuple[str, ...]
    files: dict[str, str]
    digest: str
    folder: Path

    @property
    def state(self) -> State:
        """What its folder says."""
        if (self.folder / RESULT).exists():
            return "done"
        if (self.folder / TRIAL).exists() and "stopped" in read_json(self.folder / TRIAL):
            return "stopped"
        return "begun" if (self.folder / CONFIG).exists() else "missing"

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run of it."""
        return self.state in ("done", "stopped")

    def write(self, **more: Any) -> None:
        """Write ``trial.json``, with what is told besides."""
        content = {"values": self.values, "arguments": self.arguments, "files": self.files}
        write_json(self.folder / TRIAL, content | more)

    def scores(self, metric: str) -> list[float]:
        """The metric at each validation so far."""
        return [float(row[metric]) for row in read_metrics(self.folder / METRICS) if row.get(metric)]

    def score(self, metric: str | None) -> float | None:
        """The metric in the trial's result; None without one, or where it is not finite."""
        if metric is None or self.state != "done":
            return None
        stage, _, name = metric.partition("/")
        value = read_json(self.folder / RESULT).get(stage, {}).get(name)
        return None if value is None else float(value)


class Trials:
    """The trials of a sweep, each in its folder below ``parent``.

    A folder belongs to the trial that its ``trial.json`` tells of, whatever its name; a new one is named after what
    the trials differ in, and the digest.
    """

    def __init__(self, sweep: Sweep, parent: Path) -> None:
        self.sweep = sweep
        self.parent = parent
        self._files: dict[str, str] = {}
        self._there: dict[str, tuple[Path, Values]] = {}  # by digest
        for path in sorted(parent.glob(f"*/{TRIAL}"), key=lambda path: path.stat().st_mtime_ns):
            told = read_json(path)
            if "files" in told:  # which those of early versions lack
                self._there[digest_of(told["arguments"], told["files"])] = path.parent, told["values"]

    def of(self, values: Values) -> Trial:
        """The trial of these values.

        Raises:
            UserError: if one of its configuration files cannot be read.
        """
        arguments = (*self.sweep.fixed, *ordered_arguments(values))
        files = {w: self._content(w.partition("=")[2]) for w in arguments if w.startswith("--config=")}
        digest = digest_of(arguments, files)
        named = self.parent / f"{label(values, self.sweep)}-{digest}"
        return Trial(values, arguments, files, digest, self._there.get(digest, (named, values))[0])

    def earlier(self) -> list[Trial]:
        """The trials of this very sweep that have folders, in the order of their making: same files and ranges."""
        trials = [self.of(values) for _, values in self._there.values() if self.sweep.allows(values)]
        return [trial for trial in trials if trial.digest in self._there]

    def _content(self, name: str) -> str:
        if name not in self._files:
            content = read_yaml(Path(name), f"--config {name}")
            self._files[name] = json.dumps(content, sort_keys=True, default=str)
        return self._files[name]


def ordered_arguments(values: Values) -> list[str]:
    """``--key=value`` for each value: files first, then a class before what belongs to it."""
    keys = sorted(values, key=lambda key: (key != "config", key.count(".")))
    return [f"--{key}={v if isinstance(v := values[key], str) else json.dumps(v)}" for key in keys]


def digest_of(arguments: Iterable[str], files: Mapping[str, str]) -> str:
    """Ten hexadecimal digits for all that a trial is given: a configuration file counts by what it holds."""
    parts = [files.get(word, word) for word in arguments]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def label(values: Values, sweep: Sweep) -> str:
    """The readable part of a folder's name: what the trials of the sweep differ in."""
    parts = []
    for key, value in values.items():
        if len(sweep.parameters[key].values) == 1:
            continue
        word = key.rsplit(".", 1)[-1].removesuffix("_everything")
        if isinstance(value, str):
            parts.append(Path(value).stem if key == "config" else value.rsplit(".", 1)[-1])
        else:
            word += "-" * word[-1].isdigit()  # tau2-0.5, not tau20.5
            parts.append(f"{word}{value:.3g}" if isinstance(value, float) else f"{word}{value}")
    return slug("-".join(parts) or "trial")[:60].strip("-.")


def write_best(sweep: Sweep, tried: Sequence[Trial], path: Path) -> Path | None:
    """Write the settings that the best trial of a search was given, to go on top of the files that it had.

    A class stands there with all its settings; ``tuning_trials`` is the number of all that were tried to find it, those
    of an earlier search, which the trials began from, included.

    Returns:
        The file; None, and nothing is written, where no trial has a score.
    """
    scored = [(score, trial) for trial in tried if (score := trial.score(sweep.metric)) is not None]
    if not scored:
        return None
    score, best = (max if sweep.maximize else min)(scored, key=lambda item: item[0])
    config = read_yaml(best.folder / CONFIG, str(best.folder / CONFIG))
    settings: dict[str, Any] = {"tuning_trials": len(tried) + (config.get("tuning_trials") or 0)}
    for part, *below in (name.split(".") for name in best.values if name != "config"):
        if below:
            settings.setdefault(part, {})[below[0]] = config[part][below[0]]
        else:
            settings[part] = config[part]
    if "model" in best.values:  # a module by its class path
        settings["model_class"] = config["model_class"]
    files = " ".join(word for word in best.arguments if word in best.files)
    with atomic(path, "w") as file:
        file.write(
            f"# The best of {len(tried)} trials by {sweep.metric}, {score:.4f}; on top of: {files or 'nothing'}\n"
        )
        yaml.safe_dump(settings, file, sort_keys=False)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a trial.

    Raises:
        UserError: if it is none.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its folder to run the trial again") from error
