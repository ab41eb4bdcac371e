"""What keeps the processes of one run together: a rank does not outlive the process that started it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXTERNAL_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID")


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends, if it is a rank that Lightning's launcher started.

    Without this a rank that is busy outside a collective outlives a killed rank zero. Ranks of torchrun and
    SLURM are ended by those; on systems other than Linux nothing is done.
    """
    started_by_lightning = os.environ.get("LOCAL_RANK", "0") != "0" and not any(
        name in os.environ for name in EXTERNAL_LAUNCHERS
    )
    if not started_by_lightning or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit("the process that started this rank is gone")
