"""A run in miniature, whose validation hands a given set of embeddings to pictures and tables."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.metrics.collection import EmbeddingSet, Evaluation
from tests.helpers.tiny import silent_trainer

N, CLASSES = 60, 3
NAMES = tuple(f"class {c}" for c in range(12))  # of `overlapping`


def clusters(n: int = N) -> EmbeddingSet:
    """Three clusters, of rows 100... of an image table."""
    labels = torch.arange(n) % CLASSES
    points = torch.randn(n, 8, generator=torch.Generator().manual_seed(0)) + 20 * labels[:, None]
    return EmbeddingSet(torch.arange(100, 100 + n), points, labels)


class Recorder(Logger):
    """Keeps the metrics, pictures and tables it is given, pictures as long as it is not finalised."""

    name = "recorder"
    version = ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[str, str, int]] = []
        self.tables: dict[str, tuple[list[str], list[list[Any]], int]] = {}
        self.finalized = False

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_image(self, key: str, images: list[str], step: int) -> None:
        assert not self.finalized
        assert Path(images[0]).exists()
        self.images.append((key, Path(images[0]).name, step))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.tables[key] = (columns, data, step)

    def finalize(self, status: str) -> None:
        self.finalized = True


class Data(LightningDataModule):
    """Six training batches, one validation batch, and what the pictures ask for.

    The image of row r of the table is grey, of brightness r modulo 256.
    """

    dataset = SimpleNamespace(name="clusters", title="Clusters")
    table = SimpleNamespace(name="clusters", cameras=None)

    def __init__(self, class_names: tuple[str, ...] = ("alpha", "beta", "gamma")) -> None:
        super().__init__()
        self.class_names = class_names
        self.apart: tuple[np.ndarray, np.ndarray] | tuple[None, None] = (None, None)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(12, 1), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(1, 1))

    def rows_of(self, stage: str) -> np.ndarray:
        return np.arange(0)  # no evaluation is a part of these

    def query_gallery(self, stage: str) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        return self.apart

    def thumbnails(self, rows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(rows, dtype=np.uint8)[:, None, None, None], (len(rows), 28, 28, 1))


class Model(LightningModule):
    """Trains nothing in particular, and counts its steps."""

    def __init__(self, items: EmbeddingSet) -> None:
        super().__init__()
        self.items = items
        self.layer = torch.nn.Linear(1, 1)
        self.steps = 0

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.steps += 1
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> dict[str, Tensor]:
        items = self.items
        return {"indices": items.rows, "embeddings": items.embeddings, "labels": items.labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(
    folder: Path, *callbacks: Callback, items: EmbeddingSet | None = None, names: tuple[str, ...] | None = None
) -> tuple[Model, Recorder]:
    """Train six steps, validating after steps 2, 4 and 6, and once before the first as a check."""
    recorder, model = Recorder(), Model(items or clusters())
    silent_trainer(
        default_root_dir=folder, max_epochs=1, val_check_interval=2, logger=recorder, log_every_n_steps=1,
        callbacks=[RetrievalEvaluation(baseline=False), *callbacks], num_sanity_val_steps=2,
    ).fit(model, datamodule=Data(names) if names else Data())  # fmt: skip
    return model, recorder


def evaluated(
    folder: Path, items: EmbeddingSet, data: Data | None = None, step: int = 0, stage: str = "test"
) -> tuple[Any, Evaluation]:
    """A trainer, as far as a picture looks at it, and its evaluation of a set of embeddings."""
    evaluation = RetrievalEvaluation()
    trainer = SimpleNamespace(
        default_root_dir=str(folder), datamodule=data or Data(), is_global_zero=True,
        global_step=step, state=SimpleNamespace(fn="fit"), loggers=[Recorder()],
        callbacks=[evaluation, SimpleNamespace(neighbours=8)],
    )  # fmt: skip
    evaluation._metrics = evaluation._new_metrics(trainer, Model(items), stage)  # type: ignore[arg-type]
    evaluation._metrics.update(items.embeddings, items.labels, items.rows)
    return trainer, evaluation._evaluate(trainer, stage)  # type: ignore[arg-type]


def overlapping(n: int = 120, seed: int = 0) -> EmbeddingSet:
    """Twelve classes that overlap; the last has one image. Rows are every second row from 10."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 11, n))
    labels[-1] = 11
    points = rng.normal(size=(12, 4))[labels] + 0.8 * rng.normal(size=(n, 4))
    return EmbeddingSet(10 + 2 * torch.arange(n), torch.from_numpy(points).float(), torch.from_numpy(labels))


def apart(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a query and of a gallery set: every third item is a query."""
    rows = 10 + 2 * np.arange(n)
    return rows[::3], np.delete(rows, np.s_[::3])


def brute_force(items: EmbeddingSet, data: Data) -> tuple[list[int], dict[int, list[int]], dict[int, int]]:
    """The queries that have an answer; for each the gallery in order of distance; and its answer's rank."""
    points, labels = items.embeddings.double().numpy(), items.labels.tolist()
    rows = items.rows.tolist()
    query, gallery = data.query_gallery("test")
    answerable, order, rank = [], {}, {}
    for q in range(len(rows)):
        if query is not None and rows[q] not in query:
            continue
        others = [g for g in range(len(rows)) if g != q and (gallery is None or rows[g] in gallery)]
        order[q] = sorted(others, key=lambda g: float(np.linalg.norm(points[g] - points[q])))
        ranks = [r for r, g in enumerate(order[q], start=1) if labels[g] == labels[q]]
        if ranks:
            answerable.append(q)
            rank[q] = ranks[0]
    return answerable, order, rank
