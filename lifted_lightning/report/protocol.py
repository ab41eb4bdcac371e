"""What papers report for the data sets of some runs, and in what their protocol differs from that of the runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lifted_lightning.report.compare import Comparison, short, words

# What must be alike for two numbers to stand side by side. Seeds are shown, and are no difference.
PROTOCOL = ("trunk", "pretraining", "size", "crop", "embedding_size", "selection")


class Published(NamedTuple):
    """A line of ``published.yaml``: a paper's numbers for one loss."""

    dataset: str
    loss: str
    told: dict[str, Any]  # its source, seeds, and as much of PROTOCOL as the paper says
    numbers: dict[str, float]  # metrics, as fractions
    differs: str  # in what from the runs here that are the most alike; empty if in nothing


def published_numbers(comparison: Comparison) -> Iterator[Published]:
    """What papers report for the data sets of these runs."""
    sets = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    here = [protocol_of(row) for _, row in comparison.rows.iterrows()]
    for dataset in (name for name in sets if any(run["dataset"] == name for run in here)):
        for told in sets[dataset]:
            differs = min((_differences(told, run) for run in here if run["dataset"] == dataset), key=len)
            for loss, percent in told["losses"].items():
                numbers = {name: value / 100 for name, value in zip(told["metrics"], percent, strict=True)}
                yield Published(dataset, loss, told, numbers, ", ".join(differs))


def protocol_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a run came about, in the words of ``published.yaml``; None for what its settings do not say."""
    network = "model.network.init_args."
    trunk = settings.get(f"{network}trunk") or short(f"{settings.get('model.network.class_path')}")
    name, _, weights = str(trunk).removeprefix("timm:").partition(".")
    if file := settings.get(f"{network}weights_file"):
        weights = file
    elif not settings.get(f"{network}pretrained"):
        weights = "none"
    elif not weights and not str(trunk).startswith("timm:"):
        weights = "ImageNet-1k"
    size, share = settings.get("data.size"), settings.get("data.folds") or settings.get("data.validation_share")
    return {
        "dataset": settings["dataset"],
        "trunk": name,
        "pretraining": weights or None,
        "size": size,
        "crop": settings.get("model.augment.init_args.size") or size,
        "embedding_size": settings["embedding_size"],
        "selection": None if share is None else "validation classes" if share else "last step",
    }


def _differences(told: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Names of what a paper and a run have otherwise, and of what the paper does not tell."""
    other = [words(name) for name in PROTOCOL if told.get(name, run[name]) != run[name]]
    return other + [f"{words(name)} not told" for name in PROTOCOL if name not in told]
