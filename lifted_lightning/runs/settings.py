"""What makes two runs the same, and what settings, folders and metrics are called wherever runs are compared."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What a run is called, where it lies, what it ran on, and what was drawn and recorded of it, make it no other run, and
# the folds of a configuration are repeats of it, as its seeds are. A name stands for all below it.
SET_ASIDE = frozenset((
    "seed_everything", "name", "experiment", "runs_dir", "ckpt_path", "weights_only", "test", "evaluation.baseline",
    "evaluation.metrics", "tsne", "gallery", "confusions", "last_checkpoint", "logger_timeout", "tuning_trials",
    "data.fold",
    *(f"data.{key}" for key in ("root", "workers", "cache_dir", "eval_batch_size")),
    *(f"trainer.{key}" for key in (
        "accelerator", "strategy", "devices", "num_nodes", "logger", "log_every_n_steps", "profiler",
        "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams",
        "default_root_dir", "use_distributed_sampler", "num_sanity_val_steps",
    )),
    "model.network.init_args.embedding_size", "data.dataset.class_path",  # they stand in the summary
))  # fmt: skip

# What the loss and the optimiser are does not matter to a network that has taken no step.
OF_TRAINING = frozenset(
    f"model.{key}" for key in ("loss", "optimizer", "scheduler", "head_lr_factor", "loss_lr_factor", "layer_decay",
                               "weight_decay_on", "frozen", "freeze_trunk_steps")
)  # fmt: skip

# Settings that came later than some runs: the class that has it, if some have not, its name, and the value that
# repeats those runs.
ADDED = {
    ("EmbeddingNetwork", "model.network.init_args.head"): "random",
    ("EmbeddingNetwork", "model.network.init_args.pooling"): None,
    ("EmbeddingNetwork", "model.network.init_args.layer_norm"): False,
    ("EmbeddingNetwork", "model.network.init_args.hidden"): None,
    ("EmbeddingNetwork", "model.network.init_args.lora_rank"): 0,
    (None, "data.single_images"): "refuse",
    (None, "data.interpolation"): "bilinear",
    (None, "data.folds"): None,
    (None, "model.layer_decay"): 1.0,
    (None, "model.weight_decay_on"): "all",
    (None, "model.frozen"): None,
    (None, "model.freeze_trunk_steps"): 0,
    (None, "evaluation.metrics"): None,
}

LONGEST_NAME = 128  # characters that W&B takes


def comparable(config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that makes a run what it is, but for seed and fold: runs for which this is equal are repeats of one another.

    W&B's groups and a report's rows are made of it. (A sweep's trial is known by all that it was given, seed included.)

    Args:
        config: the run's configuration, its paths as :func:`relative_paths` gives them.
        summary: holds ``dataset`` and ``embedding_size``, as ``result.json`` does, and ``steps`` of 0 for a network
            that was not trained: what it would have been trained with is set aside too.

    Returns:
        The settings by dotted name, without :data:`SET_ASIDE`; and ``dataset`` and ``embedding_size``.
    """
    aside = SET_ASIDE | OF_TRAINING if summary.get("steps") == 0 else SET_ASIDE
    settings = flatten(config, aside) | flatten(added_since(config), aside)
    return {
        "dataset": summary["dataset"],
        "embedding_size": summary["embedding_size"],
        **each_value(settings, _without_point_zero),
    }


def group_name(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The W&B group of a run, which it shares with the runs that are its repeats, and with no other.

    Args:
        config: as for :func:`comparable`.
        summary: likewise, with the ``loss``.

    Returns:
        ``dataset/loss-size-hash``; the hash is of all that makes the group.
    """
    digest = hashlib.sha256(json.dumps(comparable(config, summary), sort_keys=True, default=str).encode()).hexdigest()
    loss = "untrained" if summary.get("steps") == 0 else slug(summary["loss"].removesuffix("Loss"))
    tail = f"/{loss}-{summary['embedding_size']}d-{digest[:8]}"
    return slug(summary["dataset"])[: LONGEST_NAME - len(tail)] + tail


def each_value(nested: Any, change: Callable[[Any], Any]) -> Any:
    """Nested mappings and lists, with each value in them changed."""
    if isinstance(nested, Mapping):
        return {str(key): each_value(item, change) for key, item in nested.items()}
    return [each_value(item, change) for item in nested] if isinstance(nested, list | tuple) else change(nested)


def flatten(config: Mapping[str, Any], without: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names, without the names given and what is below them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in without:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, without, f"{name}.")
        else:
            flat[name] = value
    return flat


def added_since(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a complete configuration, nested or flat, is too old to have: by dotted name, each with its old meaning."""
    flat = flatten(config)
    if "ckpt_path" not in flat:  # as in every run's config.yaml, and in none by hand
        return {}
    return {
        name: value
        for (owner, name), value in ADDED.items()
        if name not in flat
        and not any(key.startswith(f"{name}.") for key in flat)  # a class has settings below it
        and owner in (None, str(flat.get(f"{name.split('.init_args')[0]}.class_path")).split(".")[-1])
    }


def relative_paths(config: Any, data_root: Path, folder: Path) -> Any:
    """A configuration with paths relative to the data root or the run, so that it tells nothing of the machine."""

    def relative(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(("/", "~")):
            return value
        path = Path(value).expanduser().absolute()
        for name, base in (("data", data_root.absolute()), ("run", folder.absolute())):
            if path.is_relative_to(base):
                return f"<{name}>/{path.relative_to(base)}"
        return f"<elsewhere>/{path.name}"

    return each_value(config, relative)


def slug(text: str) -> str:
    """A name that is safe as a folder's name: lower case, words joined by hyphens."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.") or "run"


def metric_names(ks: Sequence[int], clustering: bool) -> list[str]:
    """The metrics of an evaluation that has these K of Recall@K, in the order to show them.

    Args:
        ks: the K.
        clustering: whether the embeddings were clustered too, as in a test.
    """
    return [f"recall@{k}" for k in ks] + ["r_precision", "map@r"] + (["nmi", "ami", "f1"] if clustering else [])


def metrics_in_order(names: Iterable[str]) -> list[str]:
    """The metrics among these names in the order to show them, first ours; a count of ours that is none is left out."""
    there = dict.fromkeys(names)
    ks = sorted(int(found[1]) for name in there if (found := re.fullmatch(r"recall@(\d+)", name)))
    ours = [name for name in metric_names(ks, clustering=True) if name in there]
    return ours + [name for name in there if not is_ours(name)]


def is_ours(name: str) -> bool:
    """Whether a figure of an evaluation is one of ours, in contrast to what a metric of one's own gives."""
    return name in (*metric_names([], True), "queries_without_positive") or name.startswith("recall@")


def _without_point_zero(value: Any) -> Any:
    """1 for 1.0: which of them a configuration says is chance."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
