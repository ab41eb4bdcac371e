"""What is drawn next, and what is stopped early."""

from pathlib import Path
from typing import Any, Literal

import pytest

from lifted_lightning.sweep.plan import Halving, Parameter, Sweep
from lifted_lightning.sweep.search import Search

FLOAT = {"x": Parameter("float", low=-4.0, high=4.0)}


def sweep_of(
    method: Literal["grid", "random", "bayes"],
    parameters: dict[str, Parameter],
    run_cap: int | None = None,
    halving: Halving | None = None,
) -> Sweep:
    return Sweep(Path("s.yaml"), "s", method, "validation/map@r", True, parameters, (), run_cap, halving)


def drawn(search: Search, score: Any = lambda values: 0.0) -> list[dict[str, Any]]:
    """All that it draws, each told its score before the next."""
    found = []
    while (next_one := search.next()) is not None:
        number, values = next_one
        search.tell(number, score(values))
        found.append(values)
    return found


def test_a_grid_in_order_and_cut_at_run_cap() -> None:
    parameters = {"a": Parameter("values", ([1], [2])), "b": Parameter("values", ("x", None))}
    assert drawn(Search(sweep_of("grid", parameters), [])) == [
        {"a": [1], "b": "x"}, {"a": [1], "b": None}, {"a": [2], "b": "x"}, {"a": [2], "b": None},
    ]  # fmt: skip
    assert len(drawn(Search(sweep_of("grid", parameters, run_cap=3), []))) == 3


def test_a_grid_s_trials_are_taken_as_they_are_given() -> None:
    """The command has left out what is one configuration under two names."""
    parameters = {"a": Parameter("values", (1, 2, 3))}
    given = [{"a": 1}, {"a": 3}]
    assert drawn(Search(sweep_of("grid", parameters, run_cap=2), given)) == given


def test_random_draws_lie_in_their_ranges_and_never_twice() -> None:
    parameters = {"a": Parameter("values", ("x", "y")), "b": Parameter("int", low=1, high=2)}
    found = drawn(Search(sweep_of("random", parameters, run_cap=100), []))
    assert sorted((v["a"], v["b"]) for v in found) == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]
    found = drawn(Search(sweep_of("random", {"c": Parameter("float", low=1e-4, high=1, log=True)}, run_cap=200), []))
    assert all(1e-4 <= v["c"] <= 1 for v in found)
    assert 60 < sum(v["c"] < 1e-2 for v in found) < 140  # half of them, in the logarithm


def test_bayes_comes_nearer_to_the_best_than_chance_does() -> None:
    def best(method: Literal["random", "bayes"]) -> float:
        search = Search(sweep_of(method, FLOAT, run_cap=30), [])
        return min(abs(v["x"] - 1.5) for v in drawn(search, lambda v: -((v["x"] - 1.5) ** 2))[-10:])

    assert best("bayes") < 0.2 < best("random")


def test_what_was_drawn_before_counts_and_comes_first() -> None:
    sweep = sweep_of("bayes", FLOAT, run_cap=5)
    first = drawn(Search(sweep_of("bayes", FLOAT, run_cap=3), []))
    both = drawn(Search(sweep, first))
    assert both[:3] == first
    assert len(both) == 5
    assert len({v["x"] for v in both}) == 5


def test_a_trial_without_a_score_teaches_nothing() -> None:
    search = Search(sweep_of("bayes", FLOAT, run_cap=3), [])
    assert len(drawn(search, lambda values: None)) == 3


@pytest.mark.parametrize("maximize", [True, False])
def test_halving_stops_those_behind_at_each_rung(maximize: bool) -> None:
    """Asynchronous successive halving by hand: at 1, 2, 4 validations only the best half so far goes on."""
    sweep = Sweep(Path("s"), "s", "random", "m", maximize, FLOAT, (), 4, Halving(1, 2))
    search = Search(sweep, [])
    curves = [0.5, 0.4, 0.6, 0.1] if maximize else [0.5, 0.6, 0.4, 0.9]
    stopped = []
    for score in curves:
        number, _ = search.next() or pytest.fail("too few")
        for iteration in range(1, 5):
            if search.report(number, iteration, score):
                stopped.append((score, iteration))
                search.tell(number, None, stopped=True)
                break
        else:
            search.tell(number, score)
    assert stopped == [(curves[1], 1), (curves[3], 1)]
