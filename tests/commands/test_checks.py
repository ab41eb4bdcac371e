"""Checks before a run, where a wrong input is not refused but said; those refused are in test_wrong_inputs.py."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from lifted_lightning.commands.checks import (
    GOES_ON,
    check_goes_on,
    check_images_fit,
    check_interpolation,
    check_memory,
    check_numbers,
    check_signature,
    check_validation_classes,
)
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.losses import CrossBatchMemory, LiftedStructureLoss
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import EmbeddingNetwork


def test_a_learning_rate_of_0_is_allowed_and_said() -> None:
    optimizer = Namespace(class_path="torch.optim.SGD", init_args=Namespace(lr=0.0))
    with pytest.warns(UserWarning, match="lr is 0: nothing is learnt"):
        check_numbers(Namespace(model=Namespace(optimizer=optimizer)))


def test_a_memory_that_is_never_used_is_said() -> None:
    memory = CrossBatchMemory(LiftedStructureLoss(), start=100, embedding_size=8)
    with pytest.warns(UserWarning, match=r"model.loss.start=100: in 100 steps the memory is never used"):
        check_memory(memory, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss, steps in ((memory, 101), (memory, -1), (memory, None), (LiftedStructureLoss(), 100)):
            check_memory(loss, steps)
        check_memory(memory, 51, accumulate=2)  # it counts batches


def test_a_loss_takes_embeddings_and_labels() -> None:
    def module(loss: nn.Module) -> EmbeddingModule:
        return EmbeddingModule(nn.Identity(), loss, CropMirror())

    check_signature(module(LiftedStructureLoss()))
    for loss, reason in ((nn.Identity(), "too many positional arguments"), (nn.TripletMarginLoss(), "negative")):
        with pytest.raises(UserError, match=rf"model.loss {type(loss).__name__}: .*{reason}.*compute_loss"):
            check_signature(module(loss))


def test_a_run_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    whole: dict[str, Any] = {key: kind() for key, kind in GOES_ON.items()} | {"state_dict": {}}
    torch.save(whole, tmp_path / "a.ckpt")
    check_goes_on(tmp_path / "a.ckpt")
    for key in GOES_ON:
        torch.save(whole | {key: None}, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match=f"has no {key} to go on from"):
            check_goes_on(tmp_path / "a.ckpt")


def test_numbers_that_mean_no_limit_or_all_are_allowed() -> None:
    trainer = Namespace(max_steps=-1, devices=[0, 1], num_sanity_val_steps=-1, val_check_interval=0.25, precision="32")
    check_numbers(Namespace(trainer=trainer, model=Namespace(loss=Namespace(margin=float("nan")))))


@pytest.mark.parametrize(
    ("trunk", "nearest"), [("timm:mixer_s32_224", 224), ("timm:dla34", 96), ("squeezenet1_1", 112)]
)
def test_the_nearest_size_that_a_trunk_takes_is_said(trunk: str, nearest: int) -> None:
    data: Any = SimpleNamespace(channels=3, size=112)
    network = EmbeddingNetwork(trunk, pretrained=False, embedding_size=4)
    module = EmbeddingModule(network, LiftedStructureLoss(), CropMirror(112))
    if trunk == "squeezenet1_1":
        check_images_fit(module, data)
        return
    with pytest.raises(
        UserError, match=rf"images of 3x112x112 do not pass .*; the nearest side that it takes is {nearest}$"
    ):
        check_images_fit(module, data)


def test_another_interpolation_than_the_trunk_s_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    data: Any = SimpleNamespace(interpolation="bilinear")
    module: Any = SimpleNamespace(network=SimpleNamespace(interpolation="bicubic"))
    check_interpolation(module, data)
    assert "weights are of images resized by bicubic; --data.interpolation=bicubic" in capsys.readouterr().out
    for theirs in ("bilinear", None, "random"):
        module.network.interpolation = theirs
        check_interpolation(module, data)
    assert not capsys.readouterr().out


def test_few_validation_classes_are_said() -> None:
    data = SimpleNamespace(table=SimpleNamespace(labels=np.arange(20) // 2), validation_rows=np.arange(2), folds=None)
    with pytest.warns(UserWarning, match="validation has 1 class, so all its metrics are 1"):
        check_validation_classes(data)  # type: ignore[arg-type]
    data.validation_rows = np.arange(10)
    with pytest.warns(UserWarning, match="validation has 5 classes, so Recall@1 says little"):
        check_validation_classes(data)  # type: ignore[arg-type]
    data.validation_rows = np.arange(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_validation_classes(data)  # type: ignore[arg-type]
