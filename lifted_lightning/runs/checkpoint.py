"""A run's checkpoint: which one is meant, the folder it lies in, and reading it without unpickling code."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifted_lightning.errors import UserError
from lifted_lightning.files import is_locked, read_yaml
from lifted_lightning.runs.folder import CHECKPOINTS, CONFIG, IDENTITY, LOCK, RESULT

SETTINGS_KEY = "lifted_config"  # in a checkpoint: the run's configuration, as YAML
CLASSES_KEY = "lifted_classes"  # in a checkpoint: data set and digests of the classes that it trained on
PROGRESS_KEY = "lifted_progress"  # in a checkpoint: time, images and validations so far


def find_checkpoint(settings: Mapping[str, Any]) -> Path:
    """The checkpoint file that ``ckpt_path`` means; ``last`` and ``best`` are looked for in the run's folder.

    That folder is the one of the ``config.yaml`` given, or the one that ``experiment`` and ``name`` give.

    Args:
        settings: ``ckpt_path``, ``config`` (files), ``runs_dir``, ``experiment`` and ``name``.

    Raises:
        UserError: if there is no such file.
    """
    given = settings["ckpt_path"]
    if given not in ("last", "best"):
        if not Path(given).is_file():
            raise UserError(
                f"--ckpt_path {given}: no such file; give a checkpoint, or last or best with a run's config.yaml"
            )
        return Path(given)
    folders = [Path(str(path)).resolve().parent for path in reversed(settings.get("config") or [])]
    if settings["name"]:
        folders += sorted(Path(settings["runs_dir"]).glob(f"{settings['experiment'] or '*'}/{settings['name']}"))
    candidates = [f / CHECKPOINTS / f"{given}.ckpt" for f in dict.fromkeys(map(Path.resolve, folders))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(f"{c}{checkpoints_beside(c)}" for c in candidates) or "nowhere"
    raise UserError(
        f"--ckpt_path {given}: no such checkpoint (looked for {looked}); give --config RUN/config.yaml of a run that "
        "has saved one, or a file; without --ckpt_path a fit begins anew"
    )


def folder_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in; None for one that was put elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else None


def unfinished_folder(checkpoint: Path) -> Path | None:
    """The run's folder to go on in: the checkpoint's, unless it lies elsewhere or that run has its result already."""
    folder = folder_of(checkpoint)
    return folder if folder is not None and not (folder / RESULT).exists() else None


def checkpoint_of_trial(parent: Path, settings: Mapping[str, Any]) -> Path | None:
    """What a run that W&B's agent starts goes on from: the last checkpoint of the trial that it is, if there is one.

    A run that was preempted is handed out again: it is known by its id. The values of one that was killed are given
    to a new run: it is known by its settings, in the same sweep, and that nobody is at work there. What is not gone on
    with is told.

    Args:
        parent: where the run's folder would be made.
        settings: the run's complete configuration.
    """
    run, sweep = os.environ.get("WANDB_RUN_ID"), os.environ.get("WANDB_SWEEP_ID")
    for identity in sorted(parent.glob(f"*/{IDENTITY}"), reverse=True) if run and sweep else ():
        folder, ids = identity.parents[1], identity.read_text().splitlines()
        if ids[-1:] != [sweep] or (ids[0] != run and _settings_in(folder) != settings):
            continue
        last = folder / CHECKPOINTS / "last.ckpt"
        begun = f"{folder}, W&B's run {ids[0]}, is this trial"
        if ids[0] != run and is_locked(folder / LOCK):  # the same values were drawn twice
            _tell(f"{begun}, and another process is at work there: it is run anew")
            continue
        if last.exists() and not (folder / RESULT).exists():
            _tell(f"{begun}: it goes on from its last checkpoint")
            return last
        why = "has its result already" if (folder / RESULT).exists() else "was ended before its first checkpoint"
        _tell(f"{begun}, and {why}: it is run anew")
    return None


def _settings_in(folder: Path) -> Any:
    try:
        return read_yaml(folder / CONFIG, CONFIG)
    except UserError:  # it was killed before it was written
        return None


def _tell(line: str) -> None:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only(print)(line, flush=True)


def checkpoints_beside(missing: Path) -> str:
    """What lies where a checkpoint is missed, for a message: a run without a validation has a last one, but no best."""
    names = sorted(path.name for path in missing.parent.glob("*.ckpt"))
    return f" ({', '.join(names)} is there)" if names else ""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package, read without unpickling code.

    Raises:
        UserError: if the file is none, or is damaged.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise UserError(f"{path}: is no checkpoint, or is damaged ({type(error).__name__})") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path}: holds no checkpoint of a run; for bare weights use model.network.weights_file")
    return checkpoint


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
