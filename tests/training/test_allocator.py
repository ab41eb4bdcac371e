"""What becomes of freed memory."""

import resource
import sys

import pytest

from lifted_lightning.training.allocator import keep_freed_memory

SIZE = 2**26


def pages_cleared() -> int:
    """How many pages the kernel gives this process for some memory that is at once freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = b"x" * SIZE
    del memory
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    keep_freed_memory(True)
    try:
        pages_cleared()
        assert pages_cleared() < 100
    finally:
        keep_freed_memory(False)
    assert pages_cleared() > SIZE // resource.getpagesize() // 2
