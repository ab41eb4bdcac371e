"""Checks of what only fits together at run time, made before a run's folder is."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace

from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.errors import UserError, did_you_mean, one_line
from lifted_lightning.runs.checkpoint import load_checkpoint
from lifted_lightning.training.module import EmbeddingModule


def check_run(
    command: str,
    config: Namespace,
    data: RetrievalDataModule,
    module: EmbeddingModule,
    metrics: Sequence[str],
    new: bool,
) -> None:
    """Say what does not fit together, before anything is written.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: what the command was given.
        data: made from it.
        module: made from it.
        metrics: the names that an evaluation logs, without the stage.
        new: whether the run begins, rather than goes on in a folder of its own.

    Raises:
        UserError: for the first mistake found.
    """
    check_images_fit(module, data)
    if type(module) is EmbeddingModule:  # another's optimiser may need the trainer, and it may log more
        check_optimizer(module)
        if not config.trainer.callbacks:
            check_monitor(config.best_checkpoint.monitor, [f"validation/{name}" for name in metrics])
    validated = command == "validate" or (command == "fit" and not config.test)
    if validated and not len(data.validation_rows):
        remedy = "use lifted test" if command == "validate" else "leave out --test false"
        raise UserError(f"data.validation_share 0: there are no validation classes; raise it, or {remedy}")
    if config.ckpt_path:
        check_checkpoint(module, Path(config.ckpt_path))
        if command == "fit" and new:  # else its evaluation is left to do
            check_left_to_train(Path(config.ckpt_path), config.trainer.max_steps, config.trainer.max_epochs)


@torch.inference_mode()
def check_images_fit(module: EmbeddingModule, data: RetrievalDataModule) -> None:
    """Embed one black image, so that channels and sizes that do not fit are said at once.

    Raises:
        UserError: if the data's images do not pass augmentation and network.
    """
    shape = (1, data.channels, data.size, data.size)
    training = module.training
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            module(torch.zeros(shape, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"images of {data.channels}x{data.size}x{data.size} do not pass the network ({one_line(error)}): make "
            "data.channels, data.size, model.augment and model.network agree"
        ) from error
    finally:
        module.train(training)


def check_optimizer(module: EmbeddingModule) -> None:
    """Make the optimiser and the schedule once, so that values which they do not take are said at once.

    Raises:
        UserError: if they do not take their settings.
    """
    try:
        module.configure_optimizers()
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.optimizer, model.scheduler: {error}; give other settings") from error


def check_monitor(monitor: str | None, names: Sequence[str]) -> None:
    """Raise UserError unless ``names`` has the metric that selects checkpoints."""
    if monitor is None or monitor in names:
        return
    hint = did_you_mean(monitor, names, f"give one of {', '.join(names)}")
    raise UserError(f"best_checkpoint.monitor {monitor}: no such metric is logged; {hint}")


def check_checkpoint(module: EmbeddingModule, path: Path) -> None:
    """Raise UserError, naming the first difference, unless the checkpoint's weights are this module's."""
    saved = load_checkpoint(path)["state_dict"]
    own = module.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        if name not in own or name not in saved:
            where = "configuration" if name in own else "checkpoint"
            reason = f"{name} is only in the {where}"
        elif own[name].shape != saved[name].shape:
            reason = f"{name} is {tuple(saved[name].shape)} there and {tuple(own[name].shape)} here"
        else:
            continue
        raise UserError(
            f"{path}: is of another architecture than the configuration ({reason}); give the run's config.yaml"
        )


def check_left_to_train(path: Path, max_steps: int | None, max_epochs: int | None) -> None:
    """Raise UserError if the checkpoint has all the steps or epochs that the trainer is to make (-1: no limit)."""
    checkpoint = load_checkpoint(path)
    for setting, most, made in (
        ("max_steps", max_steps, checkpoint.get("global_step", 0)),
        ("max_epochs", max_epochs, checkpoint.get("epoch", 0)),
    ):
        if most is not None and 0 <= most <= made:
            raise UserError(
                f"{path}: has {made} of trainer.{setting} {most}, so nothing is left to train; raise "
                f"trainer.{setting} to train on in a new folder, or evaluate it with lifted test"
            )
