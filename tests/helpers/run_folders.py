"""Run folders made up for the tests of the report: a ``result.json`` and no more."""

import json
from pathlib import Path
from typing import Any

ARGUMENTS = {
    "ContrastiveLoss": {"margin": 1.0, "pairs": "all"},
    "TripletLoss": {"margin": 0.2, "mining": "all"},
    "LiftedStructureLoss": {"margin": 1.0, "smooth": True},
}
LEARNING_RATE = {"ContrastiveLoss": 0.001, "TripletLoss": 0.002}


def make_run(
    folder: Path, seed: int = 0, loss: str = "LiftedStructureLoss", score: float = 0.8, **changes: Any
) -> Path:
    """Write a run whose metrics follow from ``score`` and return its folder.

    ``changes`` replace entries of ``result.json``; with two underscores in place of dots those of the
    configuration, the loss's own arguments as ``loss_arguments``.
    """
    name = loss.rpartition(".")[2]
    path = loss if "." in loss else f"lifted_lightning.losses.{loss}"
    arguments = ARGUMENTS.get(name, {}) | changes.pop("loss_arguments", {})
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": LEARNING_RATE.get(name, 0.003)}}
    sampler = {"class_path": "lifted_lightning.PositivePairs", "init_args": {"neighbours": 0.0}}
    config: dict[str, Any] = {
        "seed_everything": seed,
        "name": folder.name,
        "ckpt_path": None,
        "trainer": {"max_steps": 100, "devices": 1},
        "model": {
            "network": {"class_path": "lifted_lightning.training.networks.ConvNet", "init_args": {"width": 8}},
            "loss": {"class_path": path, "init_args": arguments},
            "optimizer": optimizer,
        },
        "data": {"sampler": sampler, "size": 28, "workers": seed, "split_seed": 0, "validation_share": 0.2},
        "tsne": {"every_n": seed},
    }
    for key in [key for key in changes if "__" in key]:
        place, *parts = config, *key.split("__")
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = changes.pop(key)
    recall = {f"recall@{k}": 1 - (1 - score) / k for k in (1, 2, 4, 8)}
    ranking = recall | {"r_precision": 0.6 * score, "map@r": 0.5 * score}
    curve = [
        {"step": step, "seconds": step / 10 + seed, "validation/map@r": 0.4 * score * step / 100}
        | {"validation/recall@1": 0.9 * score, "batch/norm_mean": 2.0 + seed, "batch/active_share": 0.5}
        for step in (50, 100)
    ]
    result = {
        "config": config, "seed": seed, "dataset": "omniglot", "loss": name, "embedding_size": 64,
        "stage": "test", "steps": 100, "selected_step": 100, "validation": ranking,
        "test": ranking | {"nmi": 0.9 * score, "ami": 0.8 * score, "f1": 0.7 * score}, "history": curve,
        "baseline": {"recall@1": 0.25, "map@r": 0.05}, "baseline_name": "raw pixels",
        "seconds": {"fit": 10.0 + seed, "test": 2.0}, "git": {"commit": "a" * 40, "changed": False},
        "versions": {"lifted-lightning": "0.1.0", "torch": "2.11.0"},
    } | changes  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


SCORES = {
    "ContrastiveLoss": (0.61, 0.60, 0.63, 0.62, 0.60),
    "TripletLoss": (0.70, 0.71, 0.74, 0.72, 0.69),
    "LiftedStructureLoss": (0.72, 0.73, 0.75, 0.75, 0.71),
}


def make_sweep(folder: Path, **changes: Any) -> Path:
    """The paper's three losses with five seeds each."""
    for loss, scores in SCORES.items():
        for seed, score in enumerate(scores):
            make_run(folder / f"{loss.lower()}-{seed}", seed, loss, score, **changes)
    return folder
