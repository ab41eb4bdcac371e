"""Which trial comes next, and which stops early: a grid as it is, Optuna for the rest."""

from typing import TYPE_CHECKING, Any

from lifted_lightning.sweep.plan import Parameter, Sweep, Values

if TYPE_CHECKING:
    import optuna

REDRAWS = 50  # after so many known ones in a row there is nothing new to draw


class Search:
    """Draws the values of trials, one by one; ends after ``run_cap`` of them, those that are known included.

    Args:
        sweep: what to draw from.
        earlier: the values of trials that have been drawn before; they come first. Of a grid, its trials, each
            configuration once; all that it lists if none are given.
    """

    def __init__(self, sweep: Sweep, earlier: list[Values]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self._study = optuna.create_study(
            direction="maximize" if sweep.maximize else "minimize",
            sampler=self._sampler(len(earlier)),
            pruner=self._pruner(),
        )
        self._earlier = list(earlier)
        self._grid = (iter(earlier) if earlier else sweep.grid()) if sweep.method == "grid" else None
        self._drawn: list[Values] = []
        self._trials: dict[int, optuna.Trial] = {}

    def next(self) -> tuple[int, Values] | None:
        """The number and values of the next trial; None when there are no more."""
        if self.sweep.run_cap is not None and len(self._drawn) >= self.sweep.run_cap:
            return None
        for _ in range(REDRAWS):
            drawn = self._draw()
            if drawn is None:
                return None
            number, values = drawn
            if values not in self._drawn:
                self._drawn.append(values)
                return number, values
            self._study.tell(self._trials.pop(number), state=_state("FAIL"))
        return None

    def report(self, number: int, iteration: int, score: float) -> bool:
        """Tell the score at a trial's n-th validation, from 1; returns whether it should stop there."""
        trial = self._trials[number]
        trial.report(score, iteration)
        return trial.should_prune()

    def tell(self, number: int, score: float | None, stopped: bool = False) -> None:
        """Tell how a trial ended: with a score, without one, or stopped early."""
        if stopped:
            self._study.tell(self._trials[number], state=_state("PRUNED"))
        else:
            state = _state("FAIL" if score is None else "COMPLETE")
            self._study.tell(self._trials[number], score, state=state)

    def _draw(self) -> tuple[int, Values] | None:
        if self._grid is not None:
            values = next(self._grid, None)
            if values is None:
                return None
            trial = self._study.ask()
            self._trials[trial.number] = trial
            return trial.number, values
        if self._earlier:
            self._study.enqueue_trial(_positions(self.sweep, self._earlier.pop(0)))
        trial = self._study.ask({name: _distribution(p) for name, p in self.sweep.parameters.items()})
        self._trials[trial.number] = trial
        return trial.number, _values(self.sweep, trial.params)

    def _sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        from optuna.samplers import RandomSampler, TPESampler

        if self.sweep.method != "bayes":
            return RandomSampler(seed=seed)
        # Of few trials a third explore; Optuna's ten would leave a short search nothing to learn from.
        start = min(10, max(2, (self.sweep.run_cap or 0) // 3))
        return TPESampler(seed=seed, n_startup_trials=start, constant_liar=True)

    def _pruner(self) -> "optuna.pruners.BasePruner":
        from optuna.pruners import NopPruner, SuccessiveHalvingPruner

        halving = self.sweep.halving
        if halving is None:
            return NopPruner()
        return SuccessiveHalvingPruner(min_resource=halving.least, reduction_factor=halving.factor)


def _state(name: str) -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    return TrialState[name]


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if parameter.kind == "values":  # by position, for Optuna takes no lists as values
        return distributions.CategoricalDistribution(range(len(parameter.values)))
    if parameter.kind == "int":
        return distributions.IntDistribution(int(parameter.low), int(parameter.high))
    return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def _positions(sweep: Sweep, values: Values) -> dict[str, Any]:
    return {
        name: parameter.values.index(values[name]) if parameter.kind == "values" else values[name]
        for name, parameter in sweep.parameters.items()
    }


def _values(sweep: Sweep, drawn: dict[str, Any]) -> Values:
    return {
        name: parameter.values[drawn[name]] if parameter.kind == "values" else drawn[name]
        for name, parameter in sweep.parameters.items()
    }
