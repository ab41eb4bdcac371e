"""That an embedding has collapsed is told once, of a planted collapse, and never of a run that learns."""

import math
from collections.abc import Callable

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from lifted_lightning.callbacks.collapse import PATIENCE, CollapseWatch, losses_of_batch_and_point
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics, batch_figures
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory, LiftedStructureLoss, TripletLoss
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.tiny import TinyNetwork, silent_trainer
from tests.helpers.tiny_training import Case, blobs

LABELS = torch.arange(8).repeat_interleave(4)
HARD = TripletLoss(mining="hard", margin=0.2)
RANDOM = torch.Generator().manual_seed(0)
CENTRES = nn.functional.normalize(torch.randn(8, 16, generator=RANDOM))
NOISE = torch.randn(32, 16, generator=RANDOM)


def told(batch_of: Callable[[int], Tensor], loss: nn.Module, steps: int = 600, watch: CollapseWatch | None = None):
    """The steps at which a line is told, and the lines, of embeddings that are looked at every 20 steps."""
    watch, network, lines = watch or CollapseWatch(), nn.Module(), {}
    network.normalize = False
    for step in range(20, steps + 1, 20):
        embeddings = batch_of(step)
        seen = step, batch_figures(embeddings, LABELS), network, loss, (embeddings, LABELS)
        if line := watch.look(*seen):
            lines[step] = line
    return lines


def near(spread: float) -> Tensor:
    """Points about one, so far from it, relative to its length, and no nearer within a class."""
    return CENTRES[:1] + spread * NOISE / 4


COLLAPSED = {
    "constants": (lambda step: near(0.0), HARD),
    "nearly constants": (lambda step: near(0.03), HARD),
    "zeros": (lambda step: torch.zeros(32, 16), ContrastiveLoss()),
    "lengths that shrink": (lambda step: NOISE * 0.98 ** min(step, 400), TripletLoss(margin=1.0, mining="hard")),
    "two poles": (lambda step: CENTRES[:1] * torch.where(LABELS < 4, 1.0, -1.0)[:, None], LiftedStructureLoss()),
    "a memory": (lambda step: near(0.01), CrossBatchMemory(ContrastiveLoss(), size=64, embedding_size=16)),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_a_collapse_is_told_once(case):
    batch_of, loss = COLLAPSED[case]
    ((step, line),) = told(batch_of, loss).items()
    began = {"lengths that shrink": step - PATIENCE}.get(case, 20)
    assert step == began + PATIENCE
    assert line.startswith(f"the embedding has collapsed: since step {began} all images lie ")
    assert "--model.network.normalize=true" in line
    assert ("mining=semihard" in line) == (getattr(loss, "mining", "") == "hard")
    assert "\n" not in line


SOUND = {
    "classes drawn together": lambda step: CENTRES[LABELS] + NOISE / step,
    "close, and told apart": lambda step: CENTRES[:1] + (CENTRES[LABELS] - CENTRES[:1]) / 8,
    "far from the origin, and told apart": lambda step: 1000 + CENTRES[LABELS] + 0.01 * NOISE,
    "opens slowly": lambda step: near(0.002 * 1.006**step),
    "not a number": lambda step: near(torch.nan),
    "random": lambda step: NOISE,
}


@pytest.mark.parametrize("case", SOUND)
@pytest.mark.parametrize(
    "loss", [LiftedStructureLoss(), TripletLoss(), ContrastiveLoss()], ids=lambda x: type(x).__name__
)
def test_nothing_is_told_of_what_is_sound(case, loss):
    assert not told(SOUND[case], loss)


def test_a_collapse_that_ends_is_not_told():
    assert not told(lambda step: near(0.01) if step % 200 else CENTRES[LABELS], HARD)


def test_it_is_told_once_in_a_run_that_is_interrupted():
    first, second, third = CollapseWatch(), CollapseWatch(), CollapseWatch()
    assert not told(COLLAPSED["constants"][0], HARD, 160, first)
    second.state = first.state
    assert list(told(COLLAPSED["constants"][0], HARD, watch=second)) == [20 + PATIENCE], "counted through"
    third.state = second.state
    assert not told(COLLAPSED["constants"][0], HARD, watch=third)


def test_a_loss_is_left_as_it_is_and_one_that_takes_more_is_not_asked():
    memory = CrossBatchMemory(TripletLoss(margin=0.3), size=64, embedding_size=16)
    own, equal = losses_of_batch_and_point(memory, NOISE, LABELS)
    assert own == pytest.approx(float(TripletLoss(margin=0.3)(NOISE, LABELS)))
    assert equal == pytest.approx(0.15)
    assert (memory.seen, memory.training) == (0, True)
    assert math.isnan(losses_of_batch_and_point(nn.TripletMarginLoss(), NOISE, LABELS)[0])


# In training


def train(cache, loss: nn.Module, rate: float, steps: int, ckpt_path=None) -> Trainer:
    """A network on images of 16 pixels, embeddings of unit length."""
    torch.manual_seed(0)
    network = TinyNetwork(8)
    network.normalize = True
    data = blobs(Case(batch_size=16), cache)
    data.sampler = PositivePairs(2, 0.0)
    module = EmbeddingModule(network, loss, CropMirror(size=12), lambda groups: torch.optim.AdamW(groups, lr=rate))
    trainer = silent_trainer(max_steps=steps, callbacks=[BatchDiagnostics()], log_every_n_steps=20, limit_val_batches=0)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def test_hard_triplets_at_a_high_rate_collapse_and_are_told_once(tmp_path, recwarn):
    trainer = train(tmp_path, HARD, 0.03, 300)
    lines = [str(warning.message) for warning in recwarn if "has collapsed" in str(warning.message)]
    assert len(lines) == 1
    assert "at nearly one point" in lines[0]
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    recwarn.clear()
    train(tmp_path, HARD, 0.03, 540, tmp_path / "saved.ckpt")
    assert not [warning for warning in recwarn if "has collapsed" in str(warning.message)]


@pytest.mark.parametrize("loss", [LiftedStructureLoss, TripletLoss, ContrastiveLoss])
def test_nothing_is_told_of_the_losses_as_they_are(tmp_path, recwarn, loss):
    train(tmp_path, loss(), 1e-3, 300)
    assert not [warning for warning in recwarn if "has collapsed" in str(warning.message)]
