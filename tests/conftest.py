"""Fixtures and settings that all tests share."""

import os

# Two workers test side by side: one thread each, in the processes that they start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")

ALLOWED_SKIPS = ("no real data", "no CUDA device", "no SLURM")
_other_skips: list[str] = []


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; tests that need it are skipped, saying so, where it is not given."""
    root = os.environ.get("LIFTED_DATA_DIR")
    if not root or not Path(root).is_dir():
        pytest.skip("no real data: LIFTED_DATA_DIR is not set to a folder")
    return Path(root)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need a CUDA device are skipped, saying so, where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note tests that are skipped for a reason that continuous integration must not accept."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
            _other_skips.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """In continuous integration a test skipped for want of anything but data or a GPU fails the session."""
    yield
    if os.environ.get("CI") and _other_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nskipped, which is a failure here:", *_other_skips, sep="\n  ")
