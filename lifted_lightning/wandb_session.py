"""Whether W&B has a server to record to, and an end to waiting for one that is away."""

import contextlib
import os
import threading
from typing import Any

from lifted_lightning.errors import UserError

MODES = ("online", "offline", "disabled")  # of W&B


def wandb_mode() -> str:
    """How W&B records: ``WANDB_MODE`` where it is set, else online for a user who is logged in, else offline.

    Raises:
        UserError: if ``WANDB_MODE`` is none of W&B's modes.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in MODES:
        raise UserError(f"WANDB_MODE={mode}: no such mode; set it to {', '.join(MODES)}, or unset it")
    if mode:
        return mode
    import wandb

    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except wandb.errors.Error as error:  # a key is set, and the server cannot be asked, or refuses it
        return offline_instead(error)


def end_wandb_service(patience: float = 2.0) -> None:
    """End W&B's own process; if it waits for a server that is away, which may be for ever, by force.

    Args:
        patience: seconds that it has to end by itself.
    """
    import wandb

    connection: Any = wandb.setup()._connection  # there is no public way
    if connection is None:
        return
    killer = threading.Timer(patience, connection._proc._process.kill)
    killer.start()
    with contextlib.suppress(SystemExit):  # which W&B raises if its process was killed
        wandb.teardown()
    killer.cancel()


def offline_instead(error: Exception) -> str:
    """Say that the server does not answer, and forget it; returns the mode to go on in."""
    end_wandb_service()
    print(f"W&B cannot be reached ({type(error).__name__}): recording offline; `wandb sync` uploads later")
    return "offline"
