"""Fixtures and settings that all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; tests that need it are skipped, saying so, where it is not given."""
    root = os.environ.get("LIFTED_DATA_DIR")
    if not root or not Path(root).is_dir():
        pytest.skip("no real data: LIFTED_DATA_DIR is not set to a folder")
    return Path(root)
