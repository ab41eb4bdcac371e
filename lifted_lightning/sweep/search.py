"""Which trial comes next, and which stops early: a grid as it is, Optuna for the rest."""

from collections.abc import Iterator
from typing import Any

from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import Parameter, Sweep, Values
from lifted_lightning.sweep.trials import Trial, Trials

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner
    from optuna.trial import TrialState
except ImportError as error:
    raise UserError("sweeps need Ray and Optuna: pip install 'lifted-lightning[sweep]'") from error

REDRAWS = 50  # after so many known ones in a row there is nothing new to draw


class Search:
    """Gives the trials to run, one by one, and learns how each went; what there is already it learns at once.

    Args:
        sweep: what to draw from.
        trials: makes trials of values.
        there: of a grid, its trials; else those drawn before, which count among the ``run_cap`` and come first.
    """

    def __init__(self, sweep: Sweep, trials: Trials, there: list[Trial]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self._trials = trials
        self._asked: dict[str, optuna.Trial] = {}  # by digest
        self._reported: dict[str, int] = {}  # validations
        self._space = {name: _distribution(parameter) for name, parameter in sweep.parameters.items()}
        self._study = optuna.create_study(
            direction="maximize" if sweep.maximize else "minimize",
            sampler=_sampler(sweep, len(there)),
            pruner=SuccessiveHalvingPruner(sweep.halving.least, sweep.halving.factor) if sweep.halving else NopPruner(),
        )
        for trial in there:
            self._study.enqueue_trial(_positions(sweep, trial.values))
            self._asked[trial.digest] = self._study.ask(self._space)
            if trial.ended:
                self.tell(trial)
        self._next = self._draw(there)

    def next(self) -> Trial | None:
        """The next trial; None when there are no more."""
        return next(self._next, None)

    def falls_behind(self, trial: Trial) -> bool:
        """Whether a trial should stop, by the validations that it has had since this was asked last."""
        if not (self.sweep.halving and self.sweep.metric):
            return False
        scores = trial.scores(self.sweep.metric)
        for validation in range(self._reported.get(trial.digest, 0) + 1, len(scores) + 1):
            self._reported[trial.digest] = validation
            self._asked[trial.digest].report(scores[validation - 1], validation)
            if self._asked[trial.digest].should_prune():
                return True
        return False

    def tell(self, trial: Trial) -> None:
        """Learn from its folder how a trial ended: with a score, without one, or stopped early."""
        self.falls_behind(trial)  # its last validations
        score = trial.score(self.sweep.metric)
        without = TrialState.PRUNED if trial.state == "stopped" else TrialState.FAIL
        self._study.tell(self._asked.pop(trial.digest), score, without if score is None else TrialState.COMPLETE)

    def _draw(self, there: list[Trial]) -> Iterator[Trial]:
        """What is there and has not ended; then new ones, until there are ``run_cap`` or nothing new is left."""
        yield from (trial for trial in there if not trial.ended)
        known, redraws = {trial.digest for trial in there}, 0
        while self.sweep.method != "grid" and len(known) < (self.sweep.run_cap or 0) and redraws < REDRAWS + len(there):
            asked = self._study.ask(self._space)
            given = ((name, self.sweep.parameters[name], value) for name, value in asked.params.items())
            trial = self._trials.of({n: p.values[value] if p.kind == "values" else value for n, p, value in given})
            if trial.digest in known:
                self._study.tell(asked, state=TrialState.FAIL)
                redraws += 1
                continue
            redraws = 0
            known.add(trial.digest)
            self._asked[trial.digest] = asked
            yield trial


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    if sweep.method != "bayes":  # the same from the start, whatever there is: a job array has these, too
        return optuna.samplers.RandomSampler(seed=0)
    # Of few trials a third explore; Optuna's ten would leave a short search nothing to learn from.
    start = min(10, max(2, (sweep.run_cap or 0) // 3))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=start, constant_liar=True)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "values":  # by position, for Optuna takes no lists as values
        return CategoricalDistribution(range(len(parameter.values)))
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def _positions(sweep: Sweep, values: Values) -> dict[str, Any]:
    parameters = sweep.parameters.items()
    return {n: p.values.index(values[n]) if p.kind == "values" else values[n] for n, p in parameters}
