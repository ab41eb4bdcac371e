"""Reading the checkpoint of a run, without unpickling code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lifted_lightning.errors import UserError

if TYPE_CHECKING:
    pass


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package, read without unpickling code.

    Raises:
        UserError: if the file is none, or is damaged.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise UserError(f"{path}: is no checkpoint, or is damaged ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: holds no checkpoint of a run; for bare weights use model.network.weights_file")
    return checkpoint
