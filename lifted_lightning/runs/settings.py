"""What makes two runs the same, and what a run's settings are called where runs are compared."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def slug(text: str) -> str:
    """A name that is safe as a folder's name: lower case, words joined by hyphens."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.") or "run"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys, for dashboards that group by a key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def relative_paths(value: Any, data_root: Path, folder: Path) -> Any:
    """A configuration with paths relative to the data root or the run, so that it tells nothing of the machine."""
    if isinstance(value, Mapping):
        return {key: relative_paths(item, data_root, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [relative_paths(item, data_root, folder) for item in value]
    if not isinstance(value, str) or not value.startswith(("/", "~")):
        return value
    path = Path(value).expanduser().absolute()
    for name, base in (("data", data_root.absolute()), ("run", folder.absolute())):
        if path.is_relative_to(base):
            return f"<{name}>/{path.relative_to(base)}"
    return f"<elsewhere>/{path.name}"


# What a run is called, where it lies, the machine it used and the pictures it drew do not make it another run.
_ASIDE = (
    "seed_everything", "name", "experiment", "runs_dir", "ckpt_path", "weights_only", "test", "evaluation.baseline",
)  # fmt: skip


_ASIDE_GROUPS = ("tsne", "gallery", "last_checkpoint")


_ASIDE_DATA = ("root", "workers", "cache", "cache_dir", "eval_batch_size")


_ASIDE_TRAINER = (
    "accelerator", "strategy", "devices", "num_nodes", "logger", "log_every_n_steps", "profiler",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams",
    "default_root_dir", "use_distributed_sampler", "num_sanity_val_steps",
)  # fmt: skip


# These stand in the settings under shorter names.
_RENAMED = ("model.network.init_args.embedding_size", "data.dataset.class_path")


def _number(value: Any) -> Any:
    """1 for 1.0: which of them a configuration says is chance."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _counts(key: str) -> bool:
    top, _, rest = key.partition(".")
    if top in _ASIDE_GROUPS or key in _ASIDE or key in _RENAMED:
        return False
    return not ((top == "data" and rest in _ASIDE_DATA) or (top == "trainer" and rest in _ASIDE_TRAINER))


NOT_GROUPED = (  # settings that may differ within a W&B group
    "seed_everything",
    "experiment",
    "name",
    "runs_dir",
    "ckpt_path",
    "data.root",
    "data.cache_dir",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
)


LONGEST_NAME, LONGEST_TAG = 128, 64  # characters that W&B takes


def group_name(experiment: str, config: dict[str, Any], summary: dict[str, Any]) -> str:
    """The W&B group of a run: the runs that differ in nothing but the seed, and where they lie, share it.

    Returns:
        ``experiment/loss-size-hash``; the hash is of all that makes the group.
    """
    settings = {key: value for key, value in flatten(config).items() if key not in NOT_GROUPED}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    loss = slug(summary["loss"].removesuffix("Loss"))
    tail = f"/{loss}-{summary['embedding_size']}d-{digest}"
    return experiment[: LONGEST_NAME - len(tail)] + tail


ORDER = ("recall@", "r_precision", "map@r", "nmi", "ami", "f1")
