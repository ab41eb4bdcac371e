"""What is right, in a working folder, and how a rule changes it in one place."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lifted_lightning.commands.fit import parse
from lifted_lightning.runs.settings import flatten

ROOT = Path(__file__).parents[3]
EXPERIMENTS = ROOT / "experiments"
RUNS, FAILS, REFUSED = 0, 1, 2
FIT = ("fit", "--config=tiny.yaml")
TINY: dict[str, Any] = {
    "model": {"network": {"class_path": "ConvNet", "init_args": {"width": 2, "embedding_size": 4}}},
    "data": {
        "dataset": {"class_path": "ImageFolder", "init_args": {"path": "photos"}}, "size": 16, "batch_size": 8,
        "batches_per_epoch": 2, "validation_share": 0.4,
        "sampler": {"class_path": "PositivePairs", "init_args": {"refresh_interval": 4}},
    },
    "trainer": {"max_steps": 2, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
    "evaluation": {"clustering": "none", "baseline": False},
    "tsne": {"every_n": 0}, "gallery": {"every_n": 0}, "confusions": {"every_n": 0},
    "experiment": "tiny",
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """A command line, the exit code it is to have, and words that the line of a refusal or failure must hold.

    ``variables`` are set in the environment meanwhile.
    """

    arguments: tuple[str, ...]
    code: int = REFUSED
    words: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


Rule = Callable[[], Iterator[Input]]
RULES: dict[str, Rule] = {}


def rule(title: str) -> Callable[[Rule], Rule]:
    """Add a rule; it is called in the folder that :func:`prepare` has filled, and may add files there."""

    def add(function: Rule) -> Rule:
        RULES[title] = function
        return function

    return add


CHECKPOINT = "right/tiny/run/checkpoints/last.ckpt"


def draw_images(folder: Path, classes: dict[str, int]) -> None:
    """Grey pictures of noise in class folders."""
    for (name, count), place in zip(classes.items(), itertools.count(), strict=False):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng((place, number)).integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def merged(one: Any, other: Any) -> Any:
    """Mappings with the second's values over the first's."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {key: merged(one.get(key), value) for key, value in other.items()}


def written(name: str, content: Any) -> str:
    """Write a file, and give its path: bytes and text as they are, all else as YAML."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else yaml.safe_dump(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def leaves(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Places and values of all that is no mapping in nested mappings."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, (*place, key))
    else:
        yield place, content


def changed(content: Any, place: tuple[str, ...], value: Any, name: str | None = None) -> Any:
    """A copy in which another value stands at that place, under another name if one is given."""
    copy = json.loads(json.dumps(content))
    inner = functools.reduce(lambda part, key: part[key], place[:-1], copy)
    if name is not None:
        del inner[place[-1]]
    inner[name or place[-1]] = value
    return copy


def without(content: Any, place: tuple[str, ...]) -> Any:
    """A copy without what stands at that place."""
    copy = changed(content, place, None)
    del functools.reduce(lambda part, key: part[key], place[:-1], copy)[place[-1]]
    return copy


def misspelt(name: str) -> str:
    """A name with its last two different letters exchanged."""
    for i in range(len(name) - 1, 0, -1):
        if name[i] != name[i - 1]:
            return name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :]
    return name + "x"


def options() -> dict[str, Any]:
    """Every option of `lifted fit` with its value in the configuration, without those that the seed is linked to."""
    found = flatten(parse("fit", list(FIT[1:])))
    return {
        key.replace(".init_args", ""): value for key, value in found.items()
        if key not in ("config", "model.seed", "data.seed") and not key.endswith("class_path")
    }  # fmt: skip


def named(key: str) -> tuple[str, ...]:
    """What a line on this option must hold: its name; of an optimiser's, which has words of its own, that it is."""
    return ("optimizer",) if key.startswith("model.optimizer") else (key.split(".")[-1],)


def numbers(kinds: type | tuple[type, ...] = (int, float)) -> dict[str, Any]:
    """The options that are numbers, by the value that they have."""
    return {k: v for k, v in options().items() if isinstance(v, kinds) and not isinstance(v, bool)}
