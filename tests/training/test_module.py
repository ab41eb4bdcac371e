"""EmbeddingModule: learning rates, seeds, what its hooks return, compilation, and a loss that is not finite."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.callbacks.terminal import RunProgressBar
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.errors import RunError
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.runs.loggers import MetricsFile
from lifted_lightning.training.module import EmbeddingModule, FiniteLoss
from tests.helpers.ranks import run_ranks
from tests.helpers.tiny import TinyNetwork
from tests.helpers.tiny_training import LOSSES, Case, blobs, build, relative_difference, train


def module(**settings: Any) -> EmbeddingModule:
    return EmbeddingModule(TinyNetwork(), LiftedStructureLoss(), CropMirror(size=12), **settings)


def test_head_and_proxies_learn_at_their_own_rates() -> None:
    torch.manual_seed(0)
    network, loss = TinyNetwork(), LOSSES["proxy anchor"]()
    made = EmbeddingModule(
        network, loss, CropMirror(), head_lr_factor=10.0, loss_lr_factor=100.0,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01),
    ).configure_optimizers()  # fmt: skip
    groups = {group["name"]: group for group in made.param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
        {"trunk": 0.01, "head": 0.1, "loss": 1.0}
    )
    assert {id(p) for p in groups["head"]["params"]} == {id(p) for p in network.head.parameters()}
    assert {id(p) for p in groups["trunk"]["params"]} == {id(p) for p in network.trunk.parameters()}
    assert {id(p) for p in groups["loss"]["params"]} == {id(p) for p in loss.parameters()}


def test_a_loss_without_parameters_has_no_group_and_frozen_ones_are_left_out() -> None:
    made = module()
    made.network.trunk.requires_grad_(False)
    assert [group["name"] for group in made.configure_optimizers().param_groups] == ["head"]


@pytest.mark.parametrize(("layer", "told"), [(nn.BatchNorm1d(3), True), (nn.LayerNorm(3), False)])
def test_batch_normalisation_by_parts_of_a_batch_is_told(
    layer: nn.Module, told: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("lifted_lightning.training.module.world_size", lambda: 2)
    made = EmbeddingModule(nn.Sequential(layer), LiftedStructureLoss(), CropMirror())
    made.trainer = SimpleNamespace(accumulate_grad_batches=1)  # type: ignore[assignment]
    made.on_fit_start()
    assert any("see a part of the batch on each of 2 processes" in str(w.message) for w in recwarn) == told
    recwarn.clear()
    made.network.eval()  # frozen
    made.on_fit_start()
    assert not recwarn.list


class Notes(Callback):
    """Keeps what the steps return."""

    def __init__(self) -> None:
        self.training: list[dict[str, Tensor]] = []
        self.validation: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.training.append({name: value.clone() for name, value in outputs.items()})

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.validation.append(outputs)


def fit(case: Case, cache: Path) -> tuple[Notes, RetrievalDataModule]:
    notes, data = Notes(), blobs(case, cache)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=case.steps, precision=case.precision, callbacks=[notes],
        use_distributed_sampler=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(build(case), datamodule=data)
    return notes, data


def test_what_the_steps_return(tmp_path: Path) -> None:
    notes, data = fit(Case(steps=10, validate=True, precision="32-true"), tmp_path)
    first = notes.training[0]
    assert set(first) == {"loss", "embeddings", "labels", "indices"}
    assert first["embeddings"].shape == (24, 8)
    assert first["embeddings"].dtype == torch.float32
    assert not first["embeddings"].requires_grad
    labels = torch.from_numpy(data.train_labels)[first["indices"]]
    assert torch.equal(labels, first["labels"])
    rows = torch.cat([batch["indices"] for batch in notes.validation])
    assert torch.equal(rows, torch.from_numpy(data.validation_rows))


def test_embeddings_of_mixed_precision_are_raised_for_the_loss(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Loss(LiftedStructureLoss):
        def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
            seen.append(embeddings.dtype)
            assert not torch.is_autocast_enabled("cpu")
            return super().forward(embeddings, labels)

    LOSSES["watched"] = Loss
    try:
        fit(Case(loss="watched", steps=1, precision="bf16-mixed"), tmp_path)
        fit(Case(loss="watched", steps=1, precision="64-true"), tmp_path)
    finally:
        del LOSSES["watched"]
    assert seen == [torch.float32, torch.float64]


def test_a_run_repeats_itself_whatever_torch_drew_before(tmp_path: Path) -> None:
    case = Case(steps=4, dropout=0.3)
    torch.manual_seed(1)
    (first,) = train([case], 1, tmp_path)
    torch.manual_seed(2)
    (second,) = train([case], 1, tmp_path)
    assert torch.equal(first.weights, second.weights)
    (plain,) = train([Case(steps=4)], 1, tmp_path)
    assert not torch.equal(first.weights, plain.weights), "dropout was on"


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_compiled_network_and_loss(tmp_path: Path, world_size: int) -> None:
    cases = [Case(loss=name, steps=3, precision="32-true", compiled=c) for name in LOSSES for c in (False, True)]
    for outcomes in run_ranks(train, world_size, cases, world_size, tmp_path, joined=False):
        for plain, compiled in zip(outcomes[::2], outcomes[1::2], strict=True):
            assert relative_difference(compiled.gradients[0], plain.gradients[0]) <= 1e-4
            assert relative_difference(compiled.weights, plain.weights) <= 1e-2


class Reads(TorchDispatchMode):
    """Notes which file of ours or Lightning's reads a tensor, for which it waits, between the steps that are logged."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.files: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        every: int = self.trainer.log_every_n_steps  # a step's number goes up in the middle of it
        between = self.trainer.training and 0 < self.trainer.global_step % every < every - 1
        if between and operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            files = [Path(frame.filename) for frame in traceback.extract_stack()]
            self.files.add("/".join(next(f for f in reversed(files) if "_lightning/" in str(f)).parts[-2:]))
        return operation(*args, **(kwargs or {}))


def test_a_step_waits_for_the_device_only_where_it_is_logged(tmp_path: Path) -> None:
    bar = RunProgressBar()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=12, log_every_n_steps=5, logger=MetricsFile(tmp_path),
        callbacks=[bar, BatchDiagnostics()], use_distributed_sampler=False, enable_checkpointing=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    data = blobs(Case(), tmp_path)
    data.sampler = PositivePairs(samples_per_class=2, neighbours=0.5)
    with Reads(trainer) as reads:
        trainer.fit(module(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01)), datamodule=data)
    # Augmentation reads its draws, which are on the CPU. Losses that compile as one graph read nothing elsewhere.
    assert reads.files <= {"data/augment.py", "losses/pairs.py"}
    assert bar.get_metrics(trainer, trainer.lightning_module)["train/loss"] > 0


class SecondView(EmbeddingModule):
    """Takes the loss of another view of the batch than the usual one."""

    def compute_loss(self, batch: dict[str, Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.embed_view(batch, 2), labels)


def test_another_view_has_random_numbers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.helpers.tiny_training.EmbeddingModule", SecondView)
    case = Case(steps=1)
    (outcome,) = train([case], 1, tmp_path)
    monkeypatch.undo()

    data, module = blobs(case, tmp_path), build(case).double()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    draws = module.augment.draw((module.seed, 0, 0, 2), len(batch["images"]))
    loss = module.loss(module.network(module.augment(batch["images"], draws)), batch["labels"])
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert loss.item() == pytest.approx(outcome.losses[0])
    assert relative_difference(outcome.gradients[0], expected) <= 1e-12


def image_names(rows: Sequence[int]) -> list[str]:
    return [f"image-{row}.jpg" for row in rows]


def noted(*losses: float, bad_rows: Sequence[int] = ()) -> FiniteLoss:
    """The losses of steps 17, 18, …, and in the last of them embeddings that are not finite."""
    embeddings = torch.zeros(8, 4)
    finite = FiniteLoss()
    for step, loss in enumerate(losses, start=17):
        if step == 16 + len(losses):
            embeddings[list(bad_rows), 1] = torch.inf
        finite.note(step, torch.tensor(loss), embeddings, torch.arange(100, 108))
    return finite


def test_finite_losses_pass() -> None:
    FiniteLoss().check(image_names)
    noted(1.5, 2.0).check(image_names)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_rows_and_images_are_named(loss: float) -> None:
    with pytest.raises(RunError) as caught:
        noted(1.5, loss, bad_rows=[2, 5]).check(image_names)
    message = str(caught.value)
    assert f"{loss} at step 18" in message
    assert "2 (batch rows [2, 5]: image-102.jpg, image-105.jpg)" in message
    assert "\n" not in message


def test_three_are_named_and_the_others_counted() -> None:
    with pytest.raises(RunError, match=r"8 \(batch.*image-102.jpg and 5 more"):
        noted(float("nan"), bad_rows=range(8)).check(image_names)


def test_a_loss_of_finite_embeddings_is_told_apart() -> None:
    with pytest.raises(RunError, match="all embeddings are finite"):
        noted(float("nan")).check(image_names)


def test_the_first_step_is_told_though_later_losses_are_finite_again() -> None:
    with pytest.raises(RunError, match=r"not finite since step 18, as seen after step 20"):
        noted(1.5, float("nan"), float("inf"), 2.0).check(image_names)
