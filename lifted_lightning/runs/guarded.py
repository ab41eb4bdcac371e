"""Loggers that may fail or hang without harm: that they did is told, and the run goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.errors import one_line

T = TypeVar("T")


class NoAnswerError(TimeoutError):
    """A call took longer than it may."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives, or raises, in a thread of its own; that is left behind with a NoAnswerError if it is late."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():  # it is the call's own
            raise
        raise NoAnswerError(f"no answer within {seconds:g} s") from None


class Guarded:
    """In a logger's place: that logger, to all that look at it, but it raises nothing and takes no longer.

    The first call that fails or takes longer, of whatever method or attribute, is told, and the logger asked no more.

    Args:
        logger: the logger.
        patience: seconds that a call may take.
    """

    def __init__(self, logger: Logger, patience: float) -> None:
        self._logger, self._patience, self._failed = logger, patience, False

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # what isinstance looks at
        return type(self._logger)

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self._logger), name, None)
        if found is None and name not in vars(self._logger):
            raise AttributeError(f"{type(self._logger).__name__} has no {name}")
        if callable(found):
            return lambda *args, **kwargs: self._ask(name, lambda: getattr(self._logger, name)(*args, **kwargs))
        return self._ask(name, lambda: getattr(self._logger, name))

    def _ask(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return None if self._failed else within(self._patience, call)
        except (Exception, SystemExit) as error:  # a client whose service has died may want to leave
            self._failed = True
            why = str(error) if isinstance(error, NoAnswerError) else f"{type(error).__name__}: {one_line(error)}"
            rank_zero_warn(f"{type(self._logger).__name__}.{name}: {why}; it is left alone, and the run goes on")
