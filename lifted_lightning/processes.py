"""What keeps the processes of one run together: they end together, and the one that failed says why.

Lightning's observer in rank zero sees a rank that has ended within 5 s, says which, and kills all that are left.
"""

import ctypes
import os
import re
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta

from lifted_lightning.errors import RunError, UserError, one_line

INTERACTIVE = ("bash", "interactive")  # names of a SLURM job in which Lightning starts the ranks itself
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|TCPStore", re.IGNORECASE)
AFTER_RANK_ZERO = 5.0  # seconds: a rank that fails lets rank zero speak first, whose end is its own
AFTER_OBSERVER = 15.0  # seconds: a rank that has lost another lets that one speak, and Lightning's observer end all
RANK_ZERO = "LIFTED_RANK_ZERO"  # variable with the process number of the one that starts the other ranks


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends, however that happens. On Linux; elsewhere it is left.

    Args:
        parent: the parent's process number, known from itself: it may have ended before this is called.
        number: the signal that this process gets.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG; when the thread ends that started this process
    if os.getppid() != parent:
        os._exit(1)


def stay_together() -> None:
    """End this process with rank zero if Lightning started it there. Those of torchrun and SLURM are ended by these."""
    if started_by_lightning():
        end_with_parent(int(os.environ.get(RANK_ZERO, os.getppid())))
    else:
        os.environ[RANK_ZERO] = str(os.getpid())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def rank_on_node() -> int:
    """This process's number among the run's processes of this machine, as its launcher has set it."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def started_by_lightning() -> bool:
    """Whether this is a rank that Lightning's launcher started from rank zero; else torchrun or SLURM may have."""
    by_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    return rank_on_node() != 0 and not by_slurm and "TORCHELASTIC_RUN_ID" not in os.environ


def wait_for_rank_zero(seconds: float) -> None:
    """Let rank zero, which ends its records, end first: whoever has started the ranks kills all when one has ended."""
    from torch.distributed import distributed_c10d

    with suppress(RuntimeError):  # of the time, or of rank zero's end, with which the store is gone
        distributed_c10d._get_default_store().wait([RANK_ZERO], timedelta(seconds=seconds))


def report(command: str, error: BaseException) -> int:
    """Print one line for what ended this process, and return its exit code; other ranks speak first (see above)."""
    ranks = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS") or 1) > 1
    lost = ranks and isinstance(error, RuntimeError) and LOST.search(str(error))
    if isinstance(error, UserError | RunError):
        line = str(error)
    elif lost:
        line = (
            f"another rank is gone, or has not answered for as long as --trainer.strategy.timeout ({one_line(error)})"
        )
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename]
        place = (own or frames)[-1]
        where = f"{place.filename}:{place.lineno}; --debug shows the traceback"
        told = [*getattr(error, "__notes__", ()), type(error).__name__, str(error) or "no message"]
        line = f"{one_line(': '.join(told), 400)} ({where})"
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)  # of names: one line, and no terminal's escapes
    if lost or rank_on_node():
        time.sleep(AFTER_OBSERVER if lost else AFTER_RANK_ZERO)
    print(f"lifted {command}: {f'rank {rank_on_node()}: ' if ranks else ''}{line}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UserError) else 1
