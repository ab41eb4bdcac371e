"""How runs came about, in what those of one report differ, and in what the numbers of papers differ from them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from lifted_lightning.runs.settings import flatten

if TYPE_CHECKING:
    from lifted_lightning.report.compare import Comparison

# What must be alike for two numbers to stand side by side. Seeds are shown, and are no difference.
PROTOCOL = ("trunk", "pretraining", "size", "crop", "embedding_size", "selection")

# The same for two rows of a report, each with the settings by which one would ask for the difference. The first four
# are an untrained network's too.
ALIKE = {
    "trunk": ("trunk", "network"),
    "pretraining": ("trunk", "pretrained", "weights_file"),
    "size": ("size",),
    "crop": ("size",),
    "steps": ("max_steps",),
    "batch_size": ("batch_size",),
    "images_seen": ("max_steps", "batch_size"),
    "tuning_trials": (),
    "folds": ("folds",),
    "selection": ("validation_share",),
    "selection_metric": ("monitor",),
}
_UNTRAINED = 4
NOT_TOLD = "not told"


class Published(NamedTuple):
    """A line of ``published.yaml``: a paper's numbers for one loss."""

    dataset: str
    loss: str
    told: dict[str, Any]  # its source, seeds, and as much of PROTOCOL as the paper says
    numbers: dict[str, float]  # metrics, as fractions
    differs: str  # in what from the runs here that are the most alike; empty if in nothing


def published_numbers(comparison: "Comparison") -> Iterator[Published]:
    """What papers report for the data sets of these runs."""
    sets = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    here = [protocol_of(row) for _, row in comparison.rows.iterrows()]
    for dataset in (name for name in sets if any(run["dataset"] == name for run in here)):
        for told in sets[dataset]:
            differs = min((_differences(told, run) for run in here if run["dataset"] == dataset), key=len)
            for loss, percent in told["losses"].items():
                numbers = {name: value / 100 for name, value in zip(told["metrics"], percent, strict=True)}
                yield Published(dataset, loss, told, numbers, ", ".join(differs))


def protocol_of(settings: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How a run came about, in the words of ``published.yaml`` and of :data:`ALIKE`.

    Args:
        settings: the run's, by dotted name.
        result: its ``result.json``.

    Returns:
        None for what they do not say.
    """
    flat = flatten({name: (result or {}).get(name) for name in ("steps", "cost", "selection", "tuning_trials")})
    network = "model.network.init_args."
    trunk = settings.get(f"{network}trunk") or f"{settings.get('model.network.class_path')}".rsplit(".", 1)[-1]
    name, _, weights = str(trunk).removeprefix("timm:").partition(".")
    if file := settings.get(f"{network}weights_file"):
        weights = file
    elif not settings.get(f"{network}pretrained"):
        weights = "none"
    elif not weights and not str(trunk).startswith("timm:"):
        weights = "ImageNet-1k"
    size = settings.get("data.size")
    # A share that is not told is the default one.
    validated = settings.get("data.folds") or settings.get("data.validation_share") != 0
    if split := flat.get("selection.split"):
        validated = split != "none"
    return {
        "dataset": settings["dataset"],
        "trunk": name,
        "pretraining": weights or None,
        "size": size,
        "crop": settings.get("model.augment.init_args.size") or size,
        "embedding_size": settings["embedding_size"],
        "selection": "validation classes" if validated else "last step",
        "selection_metric": settings.get("best_checkpoint.monitor"),
        "steps": flat.get("steps"),
        "batch_size": settings.get("data.batch_size"),
        "images_seen": flat.get("cost.fit.images"),
        "tuning_trials": flat.get("tuning_trials"),
        "folds": settings.get("data.folds") or 0,
    }


def alike_in(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run should share with those beside it: NOT_TOLD if not known, None if it does not apply."""
    protocol = protocol_of(settings, result)
    applies = list(ALIKE)[: _UNTRAINED if result.get("steps") == 0 else None]
    if protocol["selection"] == "last step":  # nothing was selected by the metric
        applies = [key for key in applies if key != "selection_metric"]
    return {key: None if key not in applies else NOT_TOLD if protocol[key] is None else protocol[key] for key in ALIKE}


def _differences(told: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Names of what a paper and a run have otherwise, and of what the paper does not tell."""
    other = [name.replace("_", " ") for name in PROTOCOL if told.get(name, run[name]) != run[name]]
    return other + [f"{name.replace('_', ' ')} not told" for name in PROTOCOL if name not in told]
