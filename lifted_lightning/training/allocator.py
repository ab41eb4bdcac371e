"""What the C library does with memory that a training step on a CPU has freed."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_freed_memory(keep: bool) -> None:
    """Keep freed memory in this process for its next step, or give it back and go on as is usual.

    glibc gives a large tensor back to the kernel as soon as it is freed, and the kernel clears each page of the next
    step's anew: with SqueezeNet a sixth of a step and more. Kept, a process holds what its largest step has needed. On
    Linux with glibc; elsewhere nothing happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        return
    library.mallopt(MMAP_MAX, 0 if keep else 65536)
    library.mallopt(TRIM_THRESHOLD, -1 if keep else 2**17)
    if not keep:
        library.malloc_trim(0)
