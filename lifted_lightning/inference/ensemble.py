"""Trained models on the test classes of their data: each by itself, and with their embeddings side by side.

Musgrave, Belongie and Lim, *A Metric Learning Reality Check*, ECCV 2020, report the models of class-disjoint folds so:
separated, and concatenated.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import normalize

from lifted_lightning import __version__
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.errors import UserError, listed, one_line
from lifted_lightning.files import writing
from lifted_lightning.inference.model import find_device, load
from lifted_lightning.metrics import clustering_metrics
from lifted_lightning.metrics.collection import EmbeddingSet, RetrievalMetrics
from lifted_lightning.runs.checkpoint import CLASSES_KEY, SETTINGS_KEY, file_sha256, load_checkpoint
from lifted_lightning.runs.evaluations import note_evaluation
from lifted_lightning.runs.folder import MEMBERS, RESULT, write_json
from lifted_lightning.runs.settings import slug


@dataclass(frozen=True)
class Member:
    """A run's model.

    Attributes:
        run: the run's name, ``sweep/trial``.
        checkpoint: its file.
        result: the run's ``result.json``.
    """

    run: str
    checkpoint: Path
    result: dict[str, Any]


def evaluate_together(
    members: Sequence[Member], folder: Path, together: bool = True
) -> tuple[list[dict[str, Any]], int]:
    """Evaluate models on their test classes, each by itself, and if they are several also all together.

    Together an image's embedding is that of all models, each scaled to unit length, one after the other. What was
    evaluated is written below the folder, each as a ``result.json``, and found there the next time.

    Args:
        members: models of one configuration, so of one data set and one way to evaluate.
        folder: where results are looked for and written.
        together: false leaves them by themselves.

    Returns:
        The content of each member's result, and if they are several that of all; and how many of them are new.

    Raises:
        UserError: if a checkpoint or the data set is not here or not as it was, or a result cannot be written.
    """
    test, digests = UnseenClasses(members[0].checkpoint), [file_sha256(member.checkpoint) for member in members]
    every, embedded = list(range(len(members))), dict[int, EmbeddingSet]()
    results, new = list[dict[str, Any]](), 0
    for part in [*([i] for i in every), *([every] if together and len(every) > 1 else [])]:
        of = [{"run": members[i].run, "checkpoint": members[i].checkpoint.name, "sha256": digests[i]} for i in part]
        key = json.dumps([test.protocol, *(digests[i] for i in part)], sort_keys=True)
        name = slug(members[part[0]].run) if len(part) == 1 else f"{len(part)}-together"
        path = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}" / RESULT
        if (result := _read(path)) is None:
            embedded |= {i: test.embed(members[i]) for i in part if i not in embedded}
            items = embedded[part[0]] if len(part) == 1 else concatenated([embedded[i] for i in part])
            for checkpoint in (members[i].checkpoint for i in part):
                step = load_checkpoint(checkpoint).get("global_step", 0)
                note_evaluation(checkpoint, "test", test.data.table.name, step)
            first, new = members[part[0]].result, new + 1
            result = {
                "name": path.parent.name,
                MEMBERS: of,
                **{key: first.get(key) for key in ("config", "dataset", "loss", "steps")},
                "seed": first.get("seed") if len(part) == 1 else None,
                "embedding_size": items.embeddings.shape[1],
                "stage": "test",
                "test": test.evaluate(items),
                "versions": {"lifted-lightning": __version__, "torch": version("torch")},
            }
            with writing(str(path), "give another --out"):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, result)
        results.append(result)
    return results, new


def kept_results(folder: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """The results that :func:`evaluate_together` has written below a folder, by the names of the runs they are of.

    Raises:
        UserError: if two are of the same runs, so of models that came one after the other, or evaluated in two ways.
    """
    found = dict[tuple[str, ...], dict[str, Any]]()
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if (result := _read(path)) is not None:
            runs = tuple(member["run"] for member in result[MEMBERS])
            if runs in found:
                raise UserError(f"{path.parent}: is of the same runs as {found[runs]['name']}; remove the older one")
            found[runs] = result
    return found


def concatenated(sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """The same images with the embeddings of all sets, each scaled to unit length, one after the other."""
    embeddings = torch.cat([normalize(items.embeddings, dim=1) for items in sets], dim=1)
    return EmbeddingSet(sets[0].rows, embeddings, sets[0].labels)


class UnseenClasses:
    """The test images that the models of a configuration share, and how their runs evaluate.

    Args:
        checkpoint: of a run, which says both.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.config = yaml.safe_load(load_checkpoint(checkpoint)[SETTINGS_KEY])
        self.protocol = {key: self.config["evaluation"][key] for key in ("ks", "distance", "clustering")}
        self.protocol["clustering_start"] = self.config["evaluation"].get("clustering_start", "k-means++")

    @cached_property
    def data(self) -> RetrievalDataModule:
        """The data module, its images ready to be read."""
        from jsonargparse import ArgumentError, ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(RetrievalDataModule, "data")
        try:
            data = parser.instantiate(parser.parse_object({"data": self.config["data"]})).data
        except (ArgumentError, ImportError, AttributeError, TypeError, ValueError) as error:
            where = "go to the folder that its run began in"
            raise UserError(f"{self.checkpoint}: its data cannot be read here ({one_line(error)}); {where}") from error
        data.setup("test")
        return data

    @torch.inference_mode()
    def embed(self, member: Member) -> EmbeddingSet:
        """A model's embeddings of all test images, on the CPU.

        Raises:
            UserError: if the model was trained on their classes, or cannot be read.
        """
        seen = load_checkpoint(member.checkpoint).get(CLASSES_KEY)
        if seen and (known := self.data.trained_before(seen, self.data.rows_of("test"))):
            raise UserError(f"{member.run}: was trained on classes that test it: {listed(known)}; mend the data set")
        model = load(member.checkpoint)
        batches = [
            (batch["indices"], model.module(batch["images"].to(model.device)).float().cpu(), batch["labels"])
            for batch in self.data.test_dataloader()
        ]
        return EmbeddingSet.gather(batches, torch.device("cpu"))

    def evaluate(self, items: EmbeddingSet) -> dict[str, float]:
        """What a run's own test finds of these embeddings, by name."""
        (query, gallery), distance = self.data.query_gallery("test"), self.protocol["distance"]
        metrics = RetrievalMetrics(self.protocol["ks"], query, gallery, distance, cameras=self.data.table.cameras)
        device = find_device("auto")
        metrics.to(device).update(*(part.to(device) for part in (items.embeddings, items.labels, items.rows)))
        values = metrics.compute()
        if (method := self.protocol["clustering"]) != "none":
            start = self.protocol["clustering_start"]
            values |= clustering_metrics(items.embeddings, items.labels, method, start, distance)
        return values


def _read(path: Path) -> dict[str, Any] | None:
    """A result that was written before; None if there is none, or it was cut."""
    try:
        result = json.loads(path.read_bytes())
        return result if result[MEMBERS] and result["test"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
