"""The ways in which a loss goes through the pairs of a batch."""

from collections.abc import Iterator

import pytest

from lifted_lightning.losses import pairs


@pytest.fixture(params=["whole", "blocks", "static"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """One block; many blocks with everything recomputed; shapes that do not depend on the labels."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "whole":
            patch.setattr(pairs, "BLOCK_ENTRIES_CPU", 1)
            patch.setattr(pairs, "BLOCK_ROWS", 2)
            patch.setattr(pairs, "WHOLE_ROWS", 0)
        if request.param == "static":
            patch.setattr(pairs, "is_compiling", lambda: True)
        yield request.param
