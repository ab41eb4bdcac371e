"""Batch diagnostics: each figure against its definition, and one row a logging step in real training."""

import math
from itertools import combinations

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor
from torch import nn
from torch.utils.data import DataLoader

from lifted_lightning.callbacks import collapse, diagnostics
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics, batch_figures, effective_rank
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.losses import LiftedStructureLoss
from tests.helpers.tiny_evaluation import Recorder


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


LABELS = torch.arange(12).repeat_interleave(6)


class Data(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.sampler = PositivePairs(neighbours=0.5, refresh_interval=2).bind(
            LABELS, batch_size=16, batches_per_epoch=5
        )

    def train_dataloader(self):
        return DataLoader(range(len(LABELS)), batch_sampler=self.sampler)


class Net(LightningModule):
    def __init__(self, loss):
        super().__init__()
        self.table = nn.Embedding(len(LABELS), 4)
        self.loss = loss

    def training_step(self, batch, batch_idx):
        embeddings = self.table(batch)
        self.trainer.datamodule.sampler.record(batch, embeddings.detach())
        loss = self.loss(embeddings, LABELS[batch])
        return {"loss": loss, "embeddings": embeddings.detach(), "labels": LABELS[batch], "indices": batch}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class PlainLoss(nn.Module):
    """A loss of somebody else's, that tells nothing of itself."""

    def forward(self, embeddings, labels):
        return embeddings.square().mean()


def logged(net: Net, prefix: str, *callbacks: Callback) -> list[tuple[int, dict[str, float]]]:
    """The steps at which figures whose names begin so were logged, in ten steps, and these figures."""
    loggers = [Recorder(), Recorder()]
    trainer = Trainer(
        max_epochs=2, logger=loggers, callbacks=[BatchDiagnostics(), *callbacks], log_every_n_steps=3,
        accelerator="cpu", use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(net, datamodule=Data())
    assert loggers[1].rows == loggers[0].rows
    rows = [(step, {k: v for k, v in row.items() if k.startswith(prefix)}) for step, row in loggers[0].rows]
    return [(step, row) for step, row in rows if row]


@pytest.mark.parametrize("loss", [LiftedStructureLoss(), PlainLoss()])
@pytest.mark.filterwarnings("ignore")
def test_one_row_a_logging_step_goes_to_every_logger(loss):
    rows = logged(Net(loss), "batch/")
    assert [step for step, _ in rows] == [2, 5, 8]
    names = {"classes", "positives_per_anchor", "neighbour_share", "norm_mean", "effective_rank"}
    names |= {"positive_distance", "negative_distance"} | ({"active_share"} if hasattr(loss, "diagnostics") else set())
    for _, row in rows:
        assert set(row) == {f"batch/{name}" for name in names}
        assert (row["batch/classes"], row["batch/positives_per_anchor"]) == (4, 3)
    assert [row["batch/neighbour_share"] for _, row in rows] == [0.0, 0.5, 0.5]


@pytest.mark.filterwarnings("ignore")
def test_a_collapse_is_told(monkeypatch):
    monkeypatch.setattr(collapse, "PATIENCE", 6)
    net = Net(LiftedStructureLoss())
    nn.init.ones_(net.table.weight)
    with pytest.warns(UserWarning, match="has collapsed: since step 3 all images lie at nearly one point"):
        logged(net, "batch/")


class Scheduled(Net):
    def configure_optimizers(self):
        other = {"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}
        optimizer = torch.optim.SGD([{"params": [self.table.weight], "name": "trunk"}, other], 0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("monitor", [[], [LearningRateMonitor("step")]], ids=["ours", "Lightning's"])
@pytest.mark.filterwarnings("ignore")
def test_the_rate_of_each_group_is_that_of_the_step_and_logged_once(monitor):
    rates = logged(Scheduled(PlainLoss()), "lr", *monitor)
    if monitor:
        assert all(all(name.startswith("lr-SGD") for name in row) for _, row in rates)
    else:
        assert rates == [(step, {"lr/trunk": 0.01 * 0.5**step, "lr/1": 0.1 * 0.5**step}) for step in (2, 5, 8)]
