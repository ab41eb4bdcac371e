"""A logger that fails or hangs is told once, and harms nothing."""

import threading
import time
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from lifted_lightning.runs.guarded import Guarded, within


class Bad(Logger):
    """Does what it is told to, whatever it is asked."""

    def __init__(self, deed: Any) -> None:
        super().__init__()
        self.deed = deed

    @property
    def name(self) -> str:
        return self.deed()

    @property
    def version(self) -> str:
        return self.deed()

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self.deed()

    log_hyperparams = log_image = save = finalize = log_metrics


def fail() -> None:
    raise ValueError("no\nserver")


def leave() -> None:
    raise SystemExit(3)  # as wandb does when its service has died


def give_up() -> None:
    raise TimeoutError("the server's own")


@pytest.mark.parametrize("asked", ["name", "version", "log_metrics", "log_hyperparams", "log_image", "finalize"])
@pytest.mark.parametrize(
    ("deed", "why"),
    [
        (fail, "ValueError: no server"),
        (leave, "SystemExit: 3"),
        (give_up, "TimeoutError: the server's own"),
        (threading.Event().wait, "no answer within 0.1 s"),
    ],
    ids=["raises", "leaves", "gives up", "hangs"],
)
def test_it_is_told_once_and_asked_no_more(asked: str, deed: Any, why: str, recwarn: pytest.WarningsRecorder) -> None:
    calls: list[int] = []
    logger: Any = Guarded(Bad(lambda: calls.append(1) or deed()), 0.1)
    start = time.monotonic()
    for _ in range(3):
        answer = getattr(logger, asked)
        assert (answer if asked in ("name", "version") else answer({}, step=1)) is None
        logger.log_metrics({})
    assert [str(warning.message) for warning in recwarn] == [
        f"Bad.{asked}: {why}; it is left alone, and the run goes on"
    ]
    assert len(calls) == 1
    assert time.monotonic() - start < 2


def test_a_good_one_is_as_before(tmp_path: Any) -> None:
    own = CSVLogger(tmp_path, name="x")
    logger: Any = Guarded(own, 5)
    assert isinstance(logger, CSVLogger)
    assert (logger.name, logger.log_dir) == (own.name, own.log_dir)
    assert not hasattr(logger, "log_image")
    logger.log_metrics({"a": 1.0}, step=2)
    logger.save()
    assert "1.0" in (tmp_path / "x" / "version_0" / "metrics.csv").read_text()


def test_an_error_within_time_is_the_calls_own() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ValueError, match="server"):
        within(5, fail)
