"""Batch diagnostics: each figure against its definition, and one row a logging step in real training."""

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import LearningRateMonitor
from torch import nn

from lifted_lightning.callbacks import collapse, diagnostics
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics, batch_figures, effective_rank
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.tiny import TinyNetwork, silent_trainer
from tests.helpers.tiny_evaluation import Recorder
from tests.helpers.tiny_training import Case, blobs


@pytest.mark.parametrize("rows_at_once", [7, 1024])
def test_figures_are_those_of_plain_loops(monkeypatch, rows_at_once):
    monkeypatch.setattr(diagnostics, "_ROWS", rows_at_once)
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(30, 5, generator=random)
    labels = torch.randint(0, 7, (30,), generator=random)
    positive, negative = [], []
    for i, j in combinations(range(30), 2):
        distance = math.dist(embeddings[i].tolist(), embeddings[j].tolist())
        (positive if labels[i] == labels[j] else negative).append(distance)
    figures = batch_figures(embeddings, labels)
    assert figures["classes"] == len(set(labels.tolist()))
    assert figures["positives_per_anchor"].item() == pytest.approx(2 * len(positive) / 30)
    assert figures["positive_distance"].item() == pytest.approx(sum(positive) / len(positive))
    assert figures["negative_distance"].item() == pytest.approx(sum(negative) / len(negative))
    assert figures["norm_mean"].item() == pytest.approx(sum(map(math.hypot, *embeddings.T.tolist())) / 30)


def test_a_mean_of_no_pairs_is_not_a_number():
    figures = batch_figures(torch.eye(3), torch.tensor([0, 1, 2]))
    assert figures["positive_distance"].isnan()
    assert figures["negative_distance"].item() == pytest.approx(2**0.5)


@pytest.mark.parametrize(("rows", "columns"), [(64, 16), (16, 64)])
def test_effective_rank(rows, columns):
    assert effective_rank(torch.eye(rows, columns)).item() == pytest.approx(16)
    assert effective_rank(torch.ones(rows, columns)).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(rows, columns)).item() == 1
    assert effective_rank(torch.full((rows, columns), torch.inf)).isnan()
    random = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    shares = torch.linalg.svdvals(random) / torch.linalg.svdvals(random).sum()
    expected = torch.exp(-(shares * shares.log()).sum())
    assert effective_rank(random).item() == pytest.approx(expected.item(), rel=1e-4)


class PlainLoss(nn.Module):
    """A loss of somebody else's, that tells nothing of itself."""

    def forward(self, embeddings, labels):
        return embeddings.square().mean()


def made(loss: nn.Module, kind: type[EmbeddingModule] = EmbeddingModule) -> EmbeddingModule:
    return kind(TinyNetwork(), loss, CropMirror(size=12), lambda groups: torch.optim.SGD(groups, lr=0.01))


def logged(
    folder: Path, module: EmbeddingModule, prefix: str, *callbacks: Callback
) -> list[tuple[int, dict[str, float]]]:
    """The steps at which figures whose names begin so were logged, in ten steps, and these figures."""
    loggers, data = [Recorder(), Recorder()], blobs(Case(batch_size=16), folder)
    data.sampler = PositivePairs(neighbours=0.5, refresh_interval=3)
    callbacks = (BatchDiagnostics(), *callbacks)
    silent_trainer(max_steps=10, logger=loggers, callbacks=[*callbacks], log_every_n_steps=3).fit(module, data)
    assert loggers[1].rows == loggers[0].rows
    rows = [(step, {k: v for k, v in row.items() if k.startswith(prefix)}) for step, row in loggers[0].rows]
    return [(step, row) for step, row in rows if row]


@pytest.mark.parametrize("loss", [LiftedStructureLoss(), PlainLoss()])
@pytest.mark.filterwarnings("ignore")
def test_one_row_a_logging_step_goes_to_every_logger(tmp_path, loss):
    rows = logged(tmp_path, made(loss), "batch/")
    assert [step for step, _ in rows] == [2, 5, 8]
    names = {"classes", "positives_per_anchor", "neighbour_share", "norm_mean", "effective_rank"}
    names |= {"positive_distance", "negative_distance"} | ({"active_share"} if hasattr(loss, "diagnostics") else set())
    for _, row in rows:
        assert set(row) == {f"batch/{name}" for name in names}
        assert (row["batch/classes"], row["batch/positives_per_anchor"]) == (4, 3)
    assert [row["batch/neighbour_share"] for _, row in rows] == [0.0, 0.0, 0.5]


@pytest.mark.filterwarnings("ignore")
def test_a_collapse_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "PATIENCE", 6)
    module = made(LiftedStructureLoss())
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with pytest.warns(UserWarning, match="has collapsed: since step 3 all images lie at nearly one point"):
        logged(tmp_path, module, "batch/")


class Scheduled(EmbeddingModule):
    def configure_optimizers(self):
        other = {"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}
        optimizer = torch.optim.SGD([{"params": [*self.network.parameters()], "name": "trunk"}, other], 0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("monitor", [[], [LearningRateMonitor("step")]], ids=["ours", "Lightning's"])
@pytest.mark.filterwarnings("ignore")
def test_the_rate_of_each_group_is_that_of_the_step_and_logged_once(tmp_path, monitor):
    rates = logged(tmp_path, made(PlainLoss(), Scheduled), "lr", *monitor)
    if monitor:
        assert all(all(name.startswith("lr-SGD") for name in row) for _, row in rates)
    else:
        assert rates == [(step, {"lr/trunk": 0.01 * 0.5**step, "lr/1": 0.1 * 0.5**step}) for step in (2, 5, 8)]
