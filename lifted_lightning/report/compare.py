"""Groups runs by everything but the seed, and names the groups."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lifted_lightning.errors import UserError, did_you_mean
from lifted_lightning.report.read import Found, Run, identity, listed, numbers
from lifted_lightning.report.table import Estimate, estimate
from lifted_lightning.runs.settings import metrics_in_order

CLASS, ARGUMENTS = "model.loss.class_path", "model.loss.init_args."


UNTRAINED = "untrained network"


_FIRST = ("dataset", "embedding_size")


PAPER_LOSSES = ("Contrastive", "Triplet", "LiftedStructure")  # in the order of its tables


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        runs: in the order of their seeds.
        settings: what they share, with the loss by its label.
        stage: whose metrics count.
    """

    runs: tuple[Run, ...]
    settings: dict[str, Any]
    stage: str

    @property
    def loss(self) -> str:
        """The label of the loss."""
        return str(self.settings[LOSS])

    @cached_property
    def score(self) -> float:
        """Recall@1, which says which groups are the best."""
        found = self.metric("recall@1")
        return found.mean if found else 0.0

    def by_seed(self, metric: str) -> dict[int | str, float]:
        """A metric of each run that has it, by seed."""
        pairs = ((run.seed, numbers([run.result[self.stage].get(metric)])) for run in self.runs)
        return {seed: found[0] for seed, found in pairs if found}

    def metric(self, name: str) -> Estimate | None:
        """A metric's mean and interval over the seeds."""
        return estimate(list(self.by_seed(name).values()))

    def over(self, figure: Callable[[Run], Any]) -> Estimate | None:
        """Mean and interval of any other figure of the runs."""
        return estimate(numbers(figure(run) for run in self.runs))


@dataclass(frozen=True)
class Comparison:
    """What the report shows.

    Attributes:
        groups: one a row, in order.
        columns: the settings that tell the rows apart, the loss first.
        stage: whose metrics: ``test`` or ``validation``.
        metrics: names of those that any run has, in order.
        warnings: lines on what was left out, and on what differs among the runs.
    """

    groups: list[Group]
    columns: list[str]
    stage: str
    metrics: list[str]
    warnings: list[str]

    @cached_property
    def context(self) -> list[str]:
        """The columns beside the loss in which the rows differ."""
        return [c for c in self.columns if c != LOSS and _vary(self.groups, c)]

    @cached_property
    def losses(self) -> list[str]:
        """The labels of the losses, in order."""
        return sorted({group.loss for group in self.groups}, key=_rank)

    def blocks(self, columns: Sequence[str] | None = None) -> list[list[Group]]:
        """Rows that agree in these columns, by default in all beside the loss."""
        blocks: dict[tuple[str, ...], list[Group]] = defaultdict(list)
        for group in self.groups:
            keys = self.context if columns is None else columns
            blocks[tuple(_freeze(group.settings.get(key)) for key in keys)].append(group)
        return list(blocks.values())

    def title(self, group: Group, columns: Sequence[str] | None = None) -> str:
        """A group's name: its loss, and what else it differs in, or these columns alone."""
        keys = self.context if columns is None else columns
        rest = ", ".join(f"{words(key)} {show(group.settings.get(key))}" for key in keys)
        return rest if columns is not None else ", ".join(filter(None, [group.loss, rest]))


def compare(found: Found, by: Sequence[str]) -> Comparison:
    """Group runs, find the columns that tell the groups apart, and name what differs.

    Args:
        found: the runs.
        by: the columns asked for; others are added where rows would be the same without.

    Raises:
        UserError: for a column that no run has.
    """
    members: dict[str, list[Run]] = defaultdict(list)
    for run in found.runs:
        members[identity(run)].append(run)
    asked = [resolve(key, found.runs) for key in by]
    sets = [tuple(sorted(runs, key=lambda run: _sortable(run.seed))) for runs in members.values()]
    labels = _loss_labels([runs[0].settings for runs in sets], asked)
    groups = [
        Group(runs, {**runs[0].settings, LOSS: label}, found.stage) for runs, label in zip(sets, labels, strict=True)
    ]
    columns = [LOSS, *(key for key in asked if key != LOSS)]
    keys = dict.fromkeys([*_FIRST, *(key for group in groups for key in group.settings if key != CLASS)])
    added = _needed([group.settings for group in groups], list(keys), columns)
    columns += added
    groups.sort(key=lambda g: (*(_sortable(g.settings.get(c)) for c in columns[1:]), _rank(g.loss)))
    names = {name for run in found.runs for name in run.result[found.stage]}
    metrics = metrics_in_order(names)
    warnings = [*found.warnings, *_missing(groups, metrics), *differences(found.runs, asked)]
    if by and added:
        line = f"rows with the same {', '.join(by)} differ in {', '.join(map(words, added))}, and are kept apart"
        warnings.append(line)
    return Comparison(groups, columns, found.stage, metrics, warnings)


def brought_along(comparison: Comparison) -> list[tuple[str, str]]:
    """For each loss the settings that differ among the rows and are no column, such as its learning rate.

    Where they differ within a loss too, there is a line for each of its rows.
    """
    trained = [group for group in comparison.groups if group.loss != UNTRAINED]
    named = dict.fromkeys(key for group in trained for key in group.settings)
    keys = [k for k in named if k not in comparison.columns and k != CLASS and _vary(trained, k)]
    lines: list[tuple[str, str]] = []
    for loss in comparison.losses:
        groups = [group for group in trained if group.loss == loss]
        texts = [
            ", ".join(f"{words(key)} {show(g.settings[key])}" for key in keys if g.settings.get(key) is not None)
            for g in groups
        ]
        if len(set(texts)) == 1:
            lines.append((loss, texts[0]))
        else:
            lines += [(comparison.title(group), text) for group, text in zip(groups, texts, strict=True)]
    return [(name, text) for name, text in lines if text]


# Names


def _loss_labels(rows: Sequence[Mapping[str, Any]], asked: Sequence[str]) -> list[str]:
    """A name for each row's loss: its class, and those arguments that tell it from others of the class."""
    paths = [str(row[CLASS]) if CLASS in row else "" for row in rows]
    arguments: dict[str, list[str]] = {}
    for path in set(paths):
        own = [row for row, p in zip(rows, paths, strict=True) if p == path]
        keys = dict.fromkeys(k for row in own for k in row if k.startswith(ARGUMENTS) and k not in asked)
        # A word says more than a switch, and a switch more than a number, which may be tuned to it.
        kinds = {k: min(_kind(row.get(k)) for row in own) for k in keys}
        arguments[path] = _needed(own, sorted(keys, key=lambda k: kinds[k]), [*_FIRST, *asked])
    labels = []
    for row, path in zip(rows, paths, strict=True):
        name = path.rsplit(".", 1)[-1].removesuffix("Loss")
        homonym = any(p != path and p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1] for p in paths)
        told = [path.split(".")[0].replace("_", "-")] if homonym and not path.startswith("lifted_lightning.") else []
        told += [f"{short(key)}={show(row.get(key))}" for key in arguments[path]]
        labels.append((f"{name} ({', '.join(told)})" if told else name) if path else UNTRAINED)
    return labels


def _kind(value: Any) -> int:
    return 2 if value is None else 1 if isinstance(value, bool) else 0 if isinstance(value, str) else 2


def _needed(rows: Sequence[Mapping[str, Any]], keys: Iterable[str], given: Sequence[str]) -> list[str]:
    """The keys that tell rows apart which are alike in the keys given and in those chosen before."""
    chosen: list[str] = []
    parts = [tuple(_freeze(row.get(key)) for key in given) for row in rows]
    for key in keys:
        finer = [(*part, _freeze(row.get(key))) for part, row in zip(parts, rows, strict=True)]
        if key not in given and len(set(finer)) > len(set(parts)):
            chosen.append(key)
            parts = finer
    return chosen


def _vary(groups: Iterable[Group], key: str) -> bool:
    return len({_freeze(group.settings.get(key)) for group in groups}) > 1


def _freeze(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else repr(value)


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, show(value))


def _rank(label: str) -> tuple[int, str]:
    """The untrained network, the paper's losses in the paper's order, then the others."""
    if label == UNTRAINED:
        return (-1, label)
    return (
        next((i for i, name in enumerate(PAPER_LOSSES) if label.startswith(name)), len(PAPER_LOSSES)),
        label,
    )


def _missing(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """Lines on metrics that some runs of a group lack: their means are of fewer seeds."""
    lines = []
    for metric in metrics:
        had = [group for group in groups if len(group.by_seed(metric)) not in (0, len(group.runs))]
        lacking = [run.name for group in had for run in group.runs if run.seed not in group.by_seed(metric)]
        if lacking:
            lines.append(f"without {metric}, so that its mean is of the others: {listed(lacking)}")
    return lines


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


# Runs that are compared should agree in these, unless they are what is asked for.
_ALIKE = ("dataset", "data.size", "data.validation_share", "data.split_seed")


_CHANGED = " with uncommitted changes"


def differences(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """Lines on what differs among runs that should be alike in it."""
    facts: dict[str, Callable[[Run], Any]] = {}
    if "trainer.max_steps" not in asked:
        facts["steps"] = lambda run: None if run.untrained else run.result.get("steps")
    for key in _ALIKE:
        if key not in asked:
            facts[key] = lambda run, key=key: run.settings.get(key)  # type: ignore[misc]
    for library in sorted({name for run in runs for name in run.result.get("versions") or {}}):
        facts[library] = lambda run, name=library: (run.result.get("versions") or {}).get(name)  # type: ignore[misc]
    facts["git commit"] = _commit
    return [line for name, fact in facts.items() if (line := _difference(name, fact, runs))]


def _difference(name: str, fact: Callable[[Run], Any], runs: Sequence[Run]) -> str | None:
    having: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        value = fact(run)
        if value is not None:
            having[show(value) if not isinstance(value, str) else value].append(run.name)
    if len(having) < 2:
        return next((f"git commit {v} in all runs" for v in having if v.endswith(_CHANGED)), None)
    (common, most), *others = sorted(having.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{common} in {len(most)} runs", *(f"{value} in {listed(names)}" for value, names in others)]
    return f"runs differ in {name}: {'; '.join(parts)}"


def _commit(run: Run) -> str | None:
    git = run.result.get("git") or {}
    commit = str(git.get("commit") or "")[:7]
    return commit + (_CHANGED if git.get("changed") else "") if commit else None
