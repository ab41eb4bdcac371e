"""The loop of a sweep: hands out trials, follows them, and tells how they end."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lifted_lightning.runs.folder import write_json
from lifted_lightning.sweep.plan import Sweep
from lifted_lightning.sweep.pool import Pool
from lifted_lightning.sweep.search import Search
from lifted_lightning.sweep.trials import LOG, STOPPED, TRIAL, Trial, make_trial

WAIT = 1.0  # seconds between looks at the trials that run


LAST_LINES = 5  # of a failed trial's log


class Driver:
    """Runs a sweep to its end.

    Args:
        sweep: what to run.
        search: gives the trials.
        pool: runs them.
        parent: the folder of their folders.
        retries: times that a failed trial is run again.
        total: how many trials there will be.
    """

    def __init__(self, sweep: Sweep, search: Search, pool: Pool, parent: Path, retries: int, total: int) -> None:
        self.sweep = sweep
        self.search = search
        self.pool = pool
        self.parent = parent
        self.retries = retries
        self.progress = Progress(sweep, total)
        self._numbers: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._reported: dict[str, int] = {}
        self._failed: list[Trial] = []

    def run(self) -> list[Trial]:
        """Hand out trials until there are no more; returns those that failed."""
        drawn = self._new_trials()
        exhausted = False
        with self.progress:
            while True:
                while not exhausted and len(self.pool.running()) < max(1, self.pool.slots()):
                    trial = next(drawn, None)
                    exhausted = trial is None
                    if trial is not None:
                        self._start(trial)
                if exhausted and not self.pool.running():
                    break
                for trial, code in self.pool.wait(WAIT):
                    self._ended(trial, code)
                if self.sweep.halving:
                    for trial in self.pool.running():
                        self._halve(trial)
                self.progress.show(self.pool.running(), self.pool.slots())
        for trial in self._failed:
            self._say_failed(trial)
        return self._failed

    def _new_trials(self) -> Iterator[Trial]:
        """The trials to run; those that are done already are told to the search."""
        while (drawn := self.search.next()) is not None:
            number, values = drawn
            trial = make_trial(self.sweep, values, self.parent)
            if trial.digest in self._numbers:  # other names for the same configuration
                self.search.tell(number, None)
                continue
            self._numbers[trial.digest] = number
            if trial.state in ("done", "stopped"):
                self._halve(trial)
                self._tell(trial)
            else:
                yield trial

    def _start(self, trial: Trial) -> None:
        trial.folder.mkdir(parents=True, exist_ok=True)
        write_json(trial.folder / TRIAL, {"values": trial.values, "arguments": trial.arguments})
        self.pool.start(trial)
        self.progress.started(trial)

    def _ended(self, trial: Trial, code: int | None) -> None:
        if trial.state in ("done", "stopped"):
            self._halve(trial)  # its last validations
            self._tell(trial)
            return
        attempts = self._attempts[trial.digest] = self._attempts.get(trial.digest, 0) + 1
        if attempts <= self.retries:
            self.progress.note(f"{trial.folder.name}: {_reason(code)}; it goes on from its last checkpoint")
            self.pool.start(trial)
            return
        self._failed.append(trial)
        self.search.tell(self._numbers[trial.digest], None)
        self.progress.failed(trial, _reason(code))

    def _halve(self, trial: Trial) -> None:
        """Tell the search each new validation of a trial, and stop the trial if it falls behind."""
        if not self.sweep.halving or not self.sweep.metric:
            return
        scores = trial.scores(self.sweep.metric)
        for iteration in range(self._reported.get(trial.digest, 0) + 1, len(scores) + 1):
            self._reported[trial.digest] = iteration
            behind = self.search.report(self._numbers[trial.digest], iteration, scores[iteration - 1])
            if behind and trial.state == "begun":
                told = {"validations": iteration, "metric": self.sweep.metric, "score": scores[iteration - 1]}
                write_json(trial.folder / STOPPED, told)
                return

    def _tell(self, trial: Trial) -> None:
        score = trial.score(self.sweep.metric) if self.sweep.metric else None
        self.search.tell(self._numbers[trial.digest], score, stopped=trial.state == "stopped")
        self.progress.done(trial, score)

    def _say_failed(self, trial: Trial) -> None:
        log = trial.folder / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        self.progress.note("\n".join([f"failed: {log}", *(f"  {line}" for line in lines[-LAST_LINES:])]))


def _reason(code: int | None) -> str:
    return "its machine was lost" if code is None else f"it ended with code {code} and without a result"


class Progress:
    """Counts and times the trials of a sweep, and shows them.

    Args:
        sweep: the sweep.
        total: how many trials there will be.
    """

    def __init__(self, sweep: Sweep, total: int) -> None:
        self.sweep = sweep
        self.total = total
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._began: dict[str, float] = {}
        self._durations: list[float] = []
        self._done = 0
        self._stopped = 0
        self._failed = 0
        self._best: tuple[float, Trial] | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self.note(self._counts())

    def started(self, trial: Trial) -> None:
        """A trial was handed over."""
        self._began[trial.digest] = time.monotonic()
        if not self._console.is_terminal:
            self.note(f"started {trial.folder.name}")

    def done(self, trial: Trial, score: float | None) -> None:
        """A trial has its result, was stopped early, or had ended before."""
        if trial.state == "stopped":
            self._stopped += 1
        else:
            self._done += 1
        if trial.digest in self._began:
            self._durations.append(time.monotonic() - self._began.pop(trial.digest))
            if not self._console.is_terminal:
                value = "" if score is None else f"  {self.sweep.metric} {score:.4f}"
                self.note(f"{trial.state} {trial.folder.name}{value}")
        if score is not None and (self._best is None or self._better(score, self._best[0])):
            self._best = score, trial

    def failed(self, trial: Trial, reason: str) -> None:
        """A trial failed for the last time."""
        self._failed += 1
        self._began.pop(trial.digest, None)
        self.note(f"failed {trial.folder.name}: {reason}")

    def note(self, text: str) -> None:
        """Print above the table."""
        self._console.print(text, markup=False)

    def show(self, running: list[Trial], slots: int) -> None:
        """Draw the table anew."""
        if not self._console.is_terminal:
            return
        table = Table(box=None, pad_edge=False, title=self._counts(self._left(slots)), title_justify="left")
        table.add_column("running", overflow="fold")
        table.add_column("for", justify="right")
        if self.sweep.metric:
            table.add_column(self.sweep.metric, justify="right")
        for trial in running:
            began = self._began.get(trial.digest)
            cells = [trial.folder.name, _clock(time.monotonic() - began) if began else ""]
            if self.sweep.metric:
                scores = trial.scores(self.sweep.metric)
                cells.append(f"{scores[-1]:.4f}" if scores else "")
            table.add_row(*cells)
        self._live.update(table, refresh=True)

    def _counts(self, left: str = "") -> str:
        parts = [f"{self.sweep.name}: {self._done} of {self.total} done"]
        parts += [f"{self._stopped} stopped early"] if self._stopped else []
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [left] if left else []
        if self._best:
            parts.append(f"best {self.sweep.metric} {self._best[0]:.4f} ({self._best[1].folder.name})")
        return ", ".join(parts)

    def _left(self, slots: int) -> str:
        rest = self.total - self._done - self._stopped - self._failed
        if not self._durations or not rest:
            return ""
        each = sum(self._durations) / len(self._durations)
        return f"about {_clock(rest * each / max(1, slots))} left"

    def _better(self, score: float, than: float) -> bool:
        return score > than if self.sweep.maximize else score < than


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
