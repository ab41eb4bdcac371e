"""Says in what runs differ that should be alike to be compared."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from lifted_lightning.report.names import show
from lifted_lightning.report.read import Run, listed

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
