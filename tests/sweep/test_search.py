"""What is drawn next, and what is stopped early. Trials are not run: their folders get what runs would leave there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.sweep.plan import Halving, Parameter, Sweep, Values
from lifted_lightning.sweep.search import Search
from lifted_lightning.sweep.trials import Trials

METRIC = "validation/map@r"
FLOAT = {"x": Parameter("float", low=-4.0, high=4.0)}
Score = Callable[[Values], float | None]


def sweep_of(method: Any, parameters: dict[str, Parameter], run_cap: int | None = None) -> Sweep:
    return Sweep(Path("s.yaml"), "s", method, parameters, METRIC, run_cap=run_cap)


def near(values: Values) -> float:
    return -((values["x"] - 1.5) ** 2)


def drawn(sweep: Sweep, folder: Path, score: Score = lambda values: 0.0) -> list[Values]:
    """All that is drawn after what is in the folder, each told its score before the next."""
    trials = Trials(sweep, folder)
    there = [trials.of(values) for values in sweep.grid()] if sweep.method == "grid" else trials.earlier()
    search, found = Search(sweep, trials, there), []
    while trial := search.next():
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.write()
        (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score(trial.values)}}))
        search.tell(trial)
        found.append(trial.values)
    return found


def test_a_grid_in_order(tmp_path: Path) -> None:
    parameters = {"a": Parameter("values", ([1], [2])), "b": Parameter("values", ("x", None))}
    assert drawn(sweep_of("grid", parameters), tmp_path) == [
        {"a": [1], "b": "x"}, {"a": [1], "b": None}, {"a": [2], "b": "x"}, {"a": [2], "b": None},
    ]  # fmt: skip
    assert drawn(sweep_of("grid", parameters), tmp_path) == []


def test_random_draws_lie_in_their_ranges_and_never_twice(tmp_path: Path) -> None:
    parameters = {"a": Parameter("values", ("x", "y")), "b": Parameter("int", low=1, high=2)}
    found = drawn(sweep_of("random", parameters, run_cap=100), tmp_path / "a")
    assert sorted((v["a"], v["b"]) for v in found) == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]
    found = drawn(sweep_of("random", {"c": Parameter("float", low=1e-4, high=1, log=True)}, 100), tmp_path / "b")
    assert all(1e-4 <= v["c"] <= 1 for v in found)
    assert 30 < sum(v["c"] < 1e-2 for v in found) < 70  # half of them, in the logarithm


def test_random_draws_are_the_same_in_parts_as_at_once(tmp_path: Path) -> None:
    sweep = sweep_of("random", FLOAT, run_cap=80)
    whole = drawn(sweep, tmp_path / "whole")
    trials = Trials(sweep, tmp_path / "parts")
    for values in (*whole[:60], whole[70]):  # a job array has run these
        trials.of(values).folder.mkdir(parents=True)
        trials.of(values).write()
        (trials.of(values).folder / "result.json").write_text("{}")
    assert drawn(sweep, tmp_path / "parts") == [*whole[60:70], *whole[71:]]


def test_bayes_comes_nearer_to_the_best_than_chance_does(tmp_path: Path) -> None:
    def best(method: str) -> float:
        found = drawn(sweep_of(method, FLOAT, run_cap=30), tmp_path / method, near)
        return min(abs(v["x"] - 1.5) for v in found[-10:])

    assert best("bayes") < 0.2 < best("random")


def test_what_was_drawn_before_counts_and_teaches(tmp_path: Path) -> None:
    first = drawn(sweep_of("bayes", FLOAT, run_cap=25), tmp_path, near)
    more = drawn(sweep_of("bayes", FLOAT, run_cap=30), tmp_path, near)
    assert (len(first), len(more)) == (25, 5)
    assert not set(map(str, first)) & set(map(str, more))
    assert min(abs(v["x"] - 1.5) for v in more) < 0.2


def test_what_is_half_done_comes_first(tmp_path: Path) -> None:
    sweep = sweep_of("bayes", FLOAT, run_cap=3)
    first = drawn(sweep, tmp_path)
    for path in tmp_path.glob("*/result.json"):
        if json.loads((path.parent / "trial.json").read_text())["values"] == first[1]:
            path.unlink()
    assert drawn(sweep, tmp_path) == [first[1]]


def test_a_trial_without_a_score_teaches_nothing(tmp_path: Path) -> None:
    assert len(drawn(sweep_of("bayes", FLOAT, run_cap=3), tmp_path, lambda values: None)) == 3


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("split", [4, 2], ids=["one sweep", "stopped and begun again"])
def test_halving_stops_those_behind_at_each_rung(tmp_path: Path, maximize: bool, split: int) -> None:
    """Asynchronous successive halving by hand: at 1, 2, 4 validations only the best half so far goes on."""
    sweep = Sweep(Path("s"), "s", "random", FLOAT, METRIC, maximize, (), 4, Halving(1, 2))
    curves = [0.5, 0.4, 0.6, 0.1] if maximize else [0.5, 0.6, 0.4, 0.9]
    stopped = []
    for part in (curves[:split], curves[split:]):
        trials = Trials(sweep, tmp_path)
        search = Search(sweep, trials, trials.earlier())
        for score in part:
            trial: Any = search.next()
            trial.folder.mkdir(parents=True)
            trial.write()
            for validation in range(1, 5):
                with open(trial.folder / "metrics.csv", "a") as file:
                    file.write(f"step,{METRIC}\n" if validation == 1 else "")
                    file.write(f"{validation},{score}\n")
                if search.falls_behind(trial):
                    stopped.append((score, validation))
                    trial.write(stopped=True)
                    break
            else:
                (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
            search.tell(trial)
    assert stopped == [(curves[1], 1), (curves[3], 1)]
