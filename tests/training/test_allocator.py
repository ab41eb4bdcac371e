"""What becomes of freed memory."""

import resource
import sys

import pytest

from lifted_lightning.training.allocator import keep_freed_memory
from tests.helpers.ranks import run_ranks

SIZE = 2**26


def pages_cleared() -> int:
    """How many pages the kernel gives this process for some memory that is at once freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = b"x" * SIZE
    del memory
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def kept_and_given_back() -> tuple[int, int]:
    """How many pages are cleared for the second of two tensors: kept, and given back."""
    keep_freed_memory(True)
    pages_cleared()
    kept = pages_cleared()
    keep_freed_memory(False)
    return kept, pages_cleared()


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    kept, given_back = run_ranks(kept_and_given_back, 2)[0]  # a new process: this one's heap has holes of any size
    assert kept < 100
    assert given_back > SIZE // resource.getpagesize() // 2
