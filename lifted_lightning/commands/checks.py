"""Checks of what only fits together at run time, made before a run's folder is.

Each raises a UserError for the first thing that it refuses, and warns of what it lets pass.
"""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.images import INTERPOLATIONS, sides
from lifted_lightning.data.table import positives
from lifted_lightning.errors import UserError, counted, did_you_mean, listed, one_line
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory
from lifted_lightning.runs.checkpoint import CLASSES_KEY, SETTINGS_KEY, load_checkpoint
from lifted_lightning.runs.settings import added_since, flatten
from lifted_lightning.training.lora import ADAPTER
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import EmbeddingNetwork

NOT_0 = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval", "max_steps", "max_epochs")
# What a run that goes on may not change: it decides what batches are drawn, and what the weights and the
# optimiser's state belong to. Where a run lies and what it is called is not told.
KEPT = (
    "seed_everything", "model_class", "model.network", "model.loss.class_path", "model.optimizer.class_path",
    "model.frozen", "model.weight_decay_on",
    *(f"data.{key}" for key in ("sampler", "batch_size", "batches_per_epoch", "channels")),
)  # fmt: skip
GOES_ON = {  # what of a checkpoint Lightning goes on from
    "epoch": int, "global_step": int, "loops": dict, "optimizer_states": list, "lr_schedulers": list,
    "pytorch-lightning_version": str,
}  # fmt: skip
NOT_TOLD = ("ckpt_path", "name", "experiment", "runs_dir", "test", "logger_timeout", "confusions")
FEW = 5  # validation classes, of which many an image is found by chance
MINUS_1 = ("devices", "max_epochs", "max_steps", "min_epochs", "min_steps", "num_sanity_val_steps")  # no limit, or all


def check_run(config: Namespace, data: RetrievalDataModule, module: EmbeddingModule, metrics: Sequence[str]) -> None:
    """Say what does not fit together in what a command was given, and in what was made of it.

    Args:
        config: the configuration, complete.
        data: made of it.
        module: made of it.
        metrics: the names that an evaluation logs, without the stage.
    """
    check_names(config)
    check_numbers(config)
    check_images_fit(module, data)
    check_interpolation(module, data)
    if type(module) is EmbeddingModule:  # another's optimiser may need the trainer, and it may log more
        check_signature(module)
        check_optimizer(module)
        if not config.trainer.callbacks:
            check_monitor(config.best_checkpoint.monitor, [f"validation/{name}" for name in metrics])
    check_cameras(data)
    check_pairs(module, data)
    check_memory(module.loss, config.trainer.max_steps, config.trainer.accumulate_grad_batches)


def check_pairs(module: EmbeddingModule, data: RetrievalDataModule) -> None:
    """Refuse a loss of given pairs with batches of which every given pair is of one class: all would collapse."""
    given = isinstance(module.loss, ContrastiveLoss) and module.loss.pairs == "consecutive"
    if given and isinstance(data.sampler, PositivePairs) and data.sampler.samples_per_class % 2 == 0:
        raise UserError(
            "--model.loss.pairs=consecutive: every two rows of --data.sampler=PositivePairs are of one class, and no "
            "pair would be pushed apart; give --data.sampler=ReleasedPairs, or leave out pairs"
        )


def check_memory(loss: torch.nn.Module, max_steps: int | None, accumulate: int = 1) -> None:
    """Say that a run ends before its memory is used."""
    if isinstance(loss, CrossBatchMemory) and 0 <= (max_steps or -1) * accumulate <= loss.start:
        rank_zero_warn(f"model.loss.start={loss.start}: in {max_steps} steps the memory is never used; give fewer")


def check_cameras(data: RetrievalDataModule) -> None:
    """Say how many queries have no image of their class from another camera, and are left out; refuse it of all."""
    for stage, rows in (("validation", data.validation_rows), ("test", data.table.test)):
        query, gallery = (rows if part is None else part for part in data.query_gallery(stage))
        lost = int((positives(data.table, query, gallery) == 0).sum()) if data.table.cameras is not None else 0
        if not lost:
            continue
        line = f"{lost} of {len(query)} queries of the {stage} have no image of their class from another camera"
        if lost == len(query):
            raise UserError(f"{data.table.name}: {line}: leave out the column camera, or have other {stage} classes")
        rank_zero_warn(f"{data.table.name}: {line}, and are left out")


def check_validation_classes(data: RetrievalDataModule) -> None:
    """Say that a single validation class, which every image is of, tells nothing, and that few say little."""
    classes = len(np.unique(data.table.labels[data.validation_rows]))
    if 0 < classes <= FEW:
        why = "Recall@1 says little" if classes > 1 else "all its metrics are 1, and the first checkpoint is the best"
        remedy = "raise data.validation_share, or set it to 0 for the last checkpoint"
        remedy = "give fewer data.folds" if data.folds else remedy
        rank_zero_warn(f"validation has {counted(classes, 'class')}, so {why}: {remedy}")


def check_names(config: Namespace) -> None:
    """Refuse names of the run and the folder above it that are none of a folder."""
    for key in ("name", "experiment"):
        text = config.get(key) or "run"
        if Path(text).name != text or text == ".." or not text.isprintable():
            raise UserError(f"--{key} {text}: is no folder's name; give one without slashes")


def check_numbers(config: Namespace) -> None:
    """Refuse numbers of trainer, optimiser and schedule that are not finite, or that the trainer would fail with.

    What else an optimiser or a schedule does not take, it says itself (:func:`check_optimizer`).
    """
    for key, value in flatten(config.as_dict()).items():
        if not key.startswith(("trainer.", "model.optimizer.", "model.scheduler.")):
            continue
        numbers = [v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, int | float)]
        if not all(math.isfinite(number) for number in numbers):
            raise UserError(f"--{key}={value}: give a finite number")
        name = key.removeprefix("trainer.")
        if name in NOT_0 and value == 0:
            raise UserError(f"--{key}=0: nothing would be done; give another number")
        if name != key and min(numbers, default=0) < (least := -1 if name in MINUS_1 else 0):
            raise UserError(f"--{key}={value}: give at least {least}")
    if config.get("model.optimizer.init_args.lr") == 0:
        rank_zero_warn("model.optimizer.lr is 0: nothing is learnt")


@torch.inference_mode()
def check_images_fit(module: EmbeddingModule, data: RetrievalDataModule) -> None:
    """Embed one black image, so that channels and sizes that do not pass augmentation and network are said at once."""
    shape = (1, data.channels, *sides(data.size))
    training = module.training
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            module(torch.zeros(shape, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"images of {'x'.join(map(str, shape[1:]))} do not pass the network ({one_line(error)}): make "
            f"data.channels, data.size, model.augment and model.network agree{nearest_size(module)}"
        ) from error
    finally:
        module.train(training)


def nearest_size(module: EmbeddingModule) -> str:
    """What to say of the nearest side of images that a network's trunk takes, by trying; nothing if none is found."""
    network = module.network
    if not isinstance(network, EmbeddingNetwork) or network.image_size is None:
        return ""
    side = min(network.image_size)
    near = {side // 32 * 32, -(-side // 32) * 32, min(network.own_size)} - {0}
    for other in sorted(near, key=lambda other: abs(other - side)):
        try:
            network.set_image_size((other, other))
            network(torch.zeros(1, 3, other, other))
        except (UserError, RuntimeError, ValueError, AssertionError):
            continue
        return f"; the nearest side that it takes is {other}"
    return ""


def check_interpolation(module: EmbeddingModule, data: RetrievalDataModule) -> None:
    """Say that the trunk's weights are of images that were resized in another way than here."""
    theirs = getattr(module.network, "interpolation", None)
    if theirs in INTERPOLATIONS and theirs != data.interpolation:
        rank_zero_only(print)(
            f"data.interpolation {data.interpolation}: the trunk's weights are of images resized by {theirs}; "
            f"--data.interpolation={theirs} does as much"
        )


def check_optimizer(module: EmbeddingModule) -> None:
    """Make the optimiser and the schedule once, so that values which they do not take are said at once."""
    try:
        module.configure_optimizers()
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.optimizer, model.scheduler: {error}; give other settings") from error


def check_signature(module: EmbeddingModule) -> None:
    """Refuse, before images are decoded, a loss that does not take embeddings and labels."""
    try:
        inspect.signature(module.loss.forward).bind("embeddings", "labels")
    except TypeError as error:
        raise UserError(
            f"model.loss {type(module.loss).__name__}: its forward does not take embeddings and labels ({error}); "
            "give another, or override compute_loss in a module of your own"
        ) from error


def check_monitor(monitor: str | None, names: Sequence[str]) -> None:
    """Refuse a metric to select checkpoints by that is none of those logged."""
    if monitor is not None and monitor not in names:
        hint = did_you_mean(monitor, names, f"give one of {', '.join(names)}")
        raise UserError(f"best_checkpoint.monitor {monitor}: no such metric is logged; {hint}")


def check_validation(data: RetrievalDataModule, limit: float | None, remedy: str) -> None:
    """Refuse data without validation classes, and a limit of no batches of them, with the remedy."""
    if limit == 0:
        raise UserError(f"trainer.limit_val_batches 0: nothing would be evaluated; raise it, or {remedy}")
    if not len(data.validation_rows):
        raise UserError(f"data.validation_share 0: there are no validation classes; raise it, or {remedy}")


def check_checkpoint(module: EmbeddingModule, path: Path, with_loss: bool) -> None:
    """Refuse a checkpoint whose weights are not this module's; an evaluation needs none of a loss's (``with_loss``)."""
    if path.suffix == ADAPTER:
        raise UserError(f"{path}: without the trunk it is for lifted embed and search; give the checkpoint beside it")
    saved = load_checkpoint(path)["state_dict"]
    own = module.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        if name.startswith("loss.") and not with_loss:
            continue
        if name not in own or name not in saved:
            reason = f"{name} is only in the {'configuration' if name in own else 'checkpoint'}"
        elif own[name].shape != saved[name].shape:
            reason = f"{name} is {tuple(saved[name].shape)} there and {tuple(own[name].shape)} here"
        else:
            continue
        raise UserError(
            f"{path}: is of another architecture than the configuration ({reason}); give the run's config.yaml"
        )


def check_goes_on(path: Path) -> None:
    """Refuse a checkpoint that lacks anything that a run goes on from."""
    checkpoint = load_checkpoint(path)
    for key, kind in GOES_ON.items():
        if not isinstance(checkpoint.get(key), kind):
            raise UserError(f"{path}: has no {key} to go on from; give another, or begin anew from its weights")


def check_left_to_train(path: Path, max_steps: int | None, max_epochs: int | None) -> None:
    """Refuse a checkpoint that has all the steps or epochs that the trainer is to make (-1: no limit)."""
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


def check_changes(settings: dict[str, Any], path: Path, module: EmbeddingModule) -> None:
    """Tell what a run that goes on has otherwise than its checkpoint: each is applied, or refused.

    Args:
        settings: the run's configuration, as it is saved.
        path: of the checkpoint.
        module: if ``configure_optimizers`` is its own, that goes on with the checkpoint's settings.
    """
    saved = load_checkpoint(path).get(SETTINGS_KEY)
    if not isinstance(saved, str):
        return
    configs = yaml.safe_load(saved), settings
    before, now = (flatten(_by_number(config), NOT_TOLD) | added_since(config) for config in configs)
    changed = [key for key in dict.fromkeys([*now, *before]) if before.get(key) != now.get(key)]
    told = {key: f"{key} {before.get(key)} -> {now.get(key)}" for key in changed}
    factors = ("model.head_lr_factor", "model.loss_lr_factor", "model.layer_decay")
    optimizer = ("model.optimizer", "model.scheduler", *factors)
    own = type(module).configure_optimizers is not EmbeddingModule.configure_optimizers
    kept = (*KEPT, *(optimizer if own else ()))
    refused = [told[key] for key in changed if f"{key}.".startswith(tuple(f"{name}." for name in kept))]
    if refused:
        raise UserError(
            f"--ckpt_path {path}: a run cannot go on with {'; '.join(refused)}: leave that as it was, or begin anew "
            "from its weights (model.network.weights_file)"
        )
    if told:
        rank_zero_only(print)(f"going on with other settings than those of {path}: {'; '.join(told.values())}")


def _by_number(value: Any) -> Any:
    """Lists of classes, callbacks say, as mappings from place to class, so that what differs is named alone."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    return {key: _by_number(item) for key, item in value.items()} if isinstance(value, dict) else value


def check_same_classes(data: RetrievalDataModule, path: Path) -> None:
    """Refuse to go on with other training classes or images than those of the checkpoint."""
    seen, now = load_checkpoint(path).get(CLASSES_KEY), data.classes_seen()
    if seen is None or torch.equal(seen["train"], now["train"]):
        return
    before, after = ({name for name, _ in kept["train"].tolist()} for kept in (seen, now))
    what = f"{counted(len(before), 'class')} of {seen['dataset']}, and here: {len(after)} of {now['dataset']}"
    both = f", {len(before & after)} of the same names" if before != after else ", with other images"
    raise UserError(
        f"--ckpt_path {path}: trained on {what}{both}: give the data that it was trained on, or begin anew from its "
        "weights (model.network.weights_file)"
    )


def trained_classes(data: RetrievalDataModule, path: Path, stage: str) -> list[str]:
    """The classes to be evaluated that the checkpoint trained on, and a line that counts and names them."""
    seen, rows = load_checkpoint(path).get(CLASSES_KEY), data.table.test if stage == "test" else data.validation_rows
    names = data.trained_before(seen, rows) if seen else []
    if names:
        of = len(np.unique(data.table.labels[rows]))
        rank_zero_warn(f"{path} was trained on {len(names)} of the {of} classes of this {stage}: {listed(names)}")
    return names
