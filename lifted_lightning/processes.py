"""What keeps the processes of one run together: they end together, and one of them says why."""

import atexit
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from lifted_lightning.errors import RunError, UserError

INTERACTIVE = ("bash", "interactive")  # names of a SLURM job in which Lightning starts the ranks itself
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a rank that was told to stop
PATIENCE = 3.0  # seconds that a rank gives another to say what went wrong
LOST_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset|refused)|TCPStore", re.IGNORECASE)
_ranks = 1  # that train together; Lightning takes its variables back before an error gets here


def rank_on_node() -> int:
    """This process's number among the run's processes of this machine, as its launcher has set it."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def launched_from_outside() -> bool:
    """Whether torchrun or SLURM started this rank and the others."""
    by_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    return by_slurm or "TORCHELASTIC_RUN_ID" in os.environ


def started_by_lightning() -> bool:
    """Whether this is a rank that Lightning's launcher started from rank zero."""
    return rank_on_node() != 0 and not launched_from_outside()


def end_with_parent() -> None:
    """End this process when rank zero ends, if it is a rank that Lightning's launcher started from there.

    Without this a rank that is busy outside a collective outlives a killed rank zero. Ranks of torchrun and SLURM are
    ended by those.
    """
    if started_by_lightning():
        _file("said")  # is named by the parent, while there is one
        if not _file("running").exists():
            sys.exit("the process that started this rank is gone")
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
    elif rank_on_node() == 0:
        _file("said").unlink(missing_ok=True)


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    try:
        _file("running").unlink()
        _say(f"lifted {sys.argv[1]}: rank 0 was killed; was there memory enough?")
    except FileNotFoundError:
        pass  # it ended in order, or another rank has said it
    os._exit(1)


def wait_for_parent(seconds: float) -> None:
    """Let rank zero end first, if it started this rank: it is killed when a rank ends with an exit code of its own."""
    deadline, parent = time.monotonic() + seconds, os.getppid()
    while started_by_lightning() and os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.05)


# One line that says why


def report(command: str, error: BaseException) -> int:
    """Print one line for what ended this process, unless another rank has said it; returns the exit code.

    A rank that has lost the connection to another waits for that one to say why it ended, or for the thread that
    watches the processes to see that it was killed.
    """
    lost = _has_lost_connection(error)
    deadline = time.monotonic() + PATIENCE
    while lost and time.monotonic() < deadline and not _file("said").exists():
        time.sleep(0.05)
    _say(f"lifted {command}: {_where()}{_one_line(error)}")
    if _starts_the_others():
        _file("running").unlink(missing_ok=True)
        _file("said").unlink(missing_ok=True)
    return 2 if isinstance(error, UserError) else 1


def watch(launcher: Any, ranks: int, command: str) -> None:
    """Watch the ranks that a launcher of Lightning's starts, and say which was killed.

    Lightning ends the others within seconds; they themselves know no more than that a connection is lost.

    Args:
        launcher: of the trainer's strategy.
        ranks: how many processes train together.
        command: of `lifted`, for the message.
    """
    global _ranks
    _ranks = ranks
    if hasattr(launcher, "procs"):
        _file("running").touch()
        atexit.register(_file("running").unlink, missing_ok=True)
        threading.Thread(target=_watch, args=(launcher, command), daemon=True).start()


def _watch(launcher: Any, command: str) -> None:
    while True:
        time.sleep(0.05)  # Lightning looks every 5 s, and then ends this process too
        processes: list[subprocess.Popen[bytes]] = list(launcher.procs)
        for rank, code in enumerate((process.poll() for process in processes), start=1):
            if code and code not in STOPPED:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                hint = "; was there memory enough?" if code == -signal.SIGKILL else ""
                _say(f"lifted {command}: rank {rank} {how}{hint}")
                _file("running").unlink(missing_ok=True)  # for this process will be killed too
                return


def _say(line: str) -> None:
    """Print a line, if no process of the run on this machine has said one."""
    try:
        os.close(os.open(_file("said"), os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    print(line, file=sys.stderr, flush=True)


@functools.cache
def _file(what: str) -> Path:
    """A file that says something to all ranks of a machine by being there.

    ``said``: somebody has said why the run ended; ``running``: rank zero has started others, and not ended in order.
    """
    process = os.getpid() if _starts_the_others() else os.getppid()
    return Path(tempfile.gettempdir()) / f"lifted-{os.getuid()}-{process}.{what}"


def _starts_the_others() -> bool:
    return rank_on_node() == 0 and not launched_from_outside()


def _has_lost_connection(error: BaseException) -> bool:
    return _ranks > 1 and isinstance(error, RuntimeError) and bool(LOST_CONNECTION.search(str(error)))


def _one_line(error: BaseException) -> str:
    if isinstance(error, UserError | RunError):
        return str(error)
    if _has_lost_connection(error):
        if re.search("timed? ?out", str(error), re.IGNORECASE):
            return "another rank does not answer: it hangs, or is busy for longer than --trainer.strategy.timeout"
        return "the connection to another rank is lost"
    message = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {message[:400]} ({_place(error)}; --debug shows the traceback)"


def _place(error: BaseException) -> str:
    """File and line where an error arose; of code that is no library's, if there is any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _where() -> str:
    return f"rank {rank_on_node()}: " if _ranks > 1 else ""
