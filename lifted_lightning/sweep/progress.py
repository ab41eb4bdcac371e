"""How a sweep goes: a live table in a terminal, a line an event elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lifted_lightning.sweep.plan import Sweep
from lifted_lightning.sweep.trials import Trial


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
