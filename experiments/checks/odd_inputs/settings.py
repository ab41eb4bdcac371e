"""Rules for `lifted fit`: its options, classes, configurations and names."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.checks.odd_inputs.right import (
    EXPERIMENTS,
    FAILS,
    FIT,
    REFUSED,
    RUNS,
    Input,
    changed,
    leaves,
    misspelt,
    named,
    numbers,
    options,
    read,
    rule,
    written,
)
from lifted_lightning.cli import OWN, TRAINER


@rule("option: misspelt")
def _() -> Iterator[Input]:
    for key in options():
        wrong = ".".join([*key.split(".")[:-1], misspelt(key.split(".")[-1])])
        yield Input((*FIT, f"--{wrong}=1"), REFUSED, (wrong,))


@rule("option: a word, a list or a mapping for a number or a yes")
def _() -> Iterator[Input]:
    for key, value in options().items():
        if isinstance(value, bool | int | float):
            for wrong in ("many", "[1, [2]]", "{a: 1}"):
                yield Input((*FIT, f"--{key}={wrong}"), REFUSED, () if ":" in wrong else named(key))


@rule("option: not finite")
def _() -> Iterator[Input]:
    for key, wrong in itertools.product(numbers(), (".nan", ".inf", "-.inf")):
        yield Input((*FIT, f"--{key}={wrong}"), REFUSED, named(key))


@rule("option: -7")
def _() -> Iterator[Input]:
    for key in numbers():
        yield Input((*FIT, f"--{key}=-7"), REFUSED, named(key))


ZERO: dict[str, Any] = dict.fromkeys((  # what may be 0
    "seed_everything", "trainer.num_sanity_val_steps", "trainer.log_every_n_steps", "model.optimizer.lr",
    "model.optimizer.weight_decay", "model.network.dropout", "model.loss.margin",
    "model.scheduler.warmup", "model.head_lr_factor", "model.loss_lr_factor", "model.augment.colour_jitter",
    "data.validation_share", "data.split_seed", "data.workers", "data.sampler.neighbours", "trainer.overfit_batches",
    "tsne.every_n", "tsne.thumbnails", "tsne.seed", "tsne.timeout", "gallery.every_n", "gallery.seed",
    "gallery.timeout", "confusions.every_n", "confusions.seed", "confusions.timeout",
    "trainer.reload_dataloaders_every_n_epochs", "logger_timeout",
), (RUNS,)) | {"model.optimizer.eps": (FAILS, ("the loss is nan",))}  # fmt: skip


@rule("option: 0")
def _() -> Iterator[Input]:
    for key in numbers():
        yield Input((*FIT, f"--{key}=0"), *ZERO.get(key, (REFUSED, named(key))))


@rule("option: null for a number that must be there")
def _() -> Iterator[Input]:
    for key in numbers():
        if key.startswith(("data.", "model.", "tsne.", "gallery.", "confusions.")) and key not in (
            "data.batches_per_epoch", "data.validation_share", "tsne.every_n", "gallery.every_n", "confusions.every_n",
            "model.scheduler.steps",
        ):  # fmt: skip
            yield Input((*FIT, f"--{key}=null"), REFUSED, named(key))


CLASSES = {
    "model.loss": "TripletLoss", "model.network": "ConvNet", "model.augment": "CropMirror",
    "model.optimizer": "torch.optim.SGD", "model.scheduler": "WarmupCosine", "data.dataset": "Omniglot",
    "data.sampler": "PositivePairs", "trainer.callbacks": "EarlyStopping", "model_class": "two_views.TwoViews",
}  # fmt: skip


@rule("class: misspelt, of another kind, no class, no module")
def _() -> Iterator[Input]:
    for key, right in CLASSES.items():
        others = ["pathlib.Path", "json.dumps", "os.path", "nowhere.Thing", ".", "torch.nn.", "torch..nn", "1", "a b"]
        for wrong in [misspelt(right), *others]:
            yield Input((*FIT, f"--{key}={wrong}"), REFUSED, (key.split("_")[0],))


# Configurations


@rule("YAML: a setting of a shipped file misspelt")
def _() -> Iterator[Input]:
    for path, content, random_ in shipped():
        for place, value in random_.sample(found := list(leaves(content)), min(3, len(found))):
            name = misspelt(place[-1])
            config = written(f"misspelt/{path.stem}-{'.'.join(place)}.yaml", changed(content, place, value, name))
            yield Input((*FIT, f"--config={config}"), REFUSED, (name,))


@rule("YAML: a word for a number in a shipped file")
def _() -> Iterator[Input]:
    for path, content, random_ in shipped():
        other = content.get("model", {}).get("loss", {})  # a library's without types: it fails in training
        other = isinstance(other, dict) and "." in other.get("class_path", "")
        found = [p for p, v in leaves(content) if isinstance(v, int | float) and not (other and p[1] == "loss")]
        content.get("model", {}).get("network", {"init_args": {}})["init_args"].pop("pretrained", None)
        for place in random_.sample(found, min(2, len(found))):
            config = written(f"words/{path.stem}-{'.'.join(place)}.yaml", changed(content, place, "many"))
            yield Input((*FIT, f"--config={config}"), REFUSED, (place[-1],))
    for name, key in (("MultiSimilarityLoss", "base"), ("TripletMarginLoss", "margin")):
        other = (f"--model.loss=pytorch_metric_learning.losses.{name}", f"--model.loss.{key}=many")
        yield Input((*FIT, *other), FAILS, (f"model.loss {name}: TypeError",))


@rule("YAML: a class without its name in a shipped file")
def _() -> Iterator[Input]:
    for path, content, _random in shipped():
        for place in [place for place, _ in leaves(content) if place[-1] == "class_path"][:2]:
            # Another class of the kind stands in the file before: its settings are not to be taken for that one's.
            config = written(f"nameless/{path.stem}-{place[1]}.yaml", changed(content, place, "Nothing"))
            yield Input((*FIT, f"--config={config}"), REFUSED, ("Nothing",))


def shipped() -> Iterator[tuple[Path, Any, random.Random]]:
    """The shipped configurations, each with random numbers of its own."""
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        if path.relative_to(EXPERIMENTS).parts[0] not in ("sweeps", "results"):
            yield path, read(path), random.Random(str(path.relative_to(EXPERIMENTS)))


@rule("YAML: another form")
def _() -> Iterator[Input]:
    text = Path("tiny.yaml").read_text()
    for name, content in {
        "bom": "\ufeff" + text, "crlf": text.replace("\n", "\r\n"), "comment": "# nothing\n" + text + "# nothing",
        "json": json.dumps(yaml.safe_load(text)), "start": "---\n" + text, "end": text + "\n...\n",
        "anchor": text + "\ndefaults: &here {a: 1}\n".replace("defaults: &here {a: 1}", "tsne: {<<: {every_n: 0}}"),
    }.items():  # fmt: skip
        code = REFUSED if name == "anchor" else RUNS  # a section that stands there twice: the first would be lost
        yield Input(("fit", f"--config={written(f'forms/{name}.yaml', content)}"), code)
    for name, content in {
        "utf16": text.encode("utf-16"), "latin1": b"name: \xe9\n" + text.encode(), "nul": b"\0" + text.encode(),
        "tabs": text.replace("  ", "\t"), "cut": text[: len(text) // 2] + "{", "two": text + "---\n" + text,
        "tag": "model: !!python/object/apply:os.system [true]\n", "empty": "", "comments": "# nothing\n",
        "word": "word",
        "number": "3", "list": "- 1\n- 2\n", "dates": "2020-01-01: 1\n", "numbers": "1: 2\n", "none": "~: 2\n",
        "twice": "data: {size: 16}\nmodel: {}\ndata: {channels: 1}\n", "nested": "data: {data: {size: 3}}\n",
        "dotted": "data.sizes: 3\n", "scalar": "data: 3\n", "listed": "data: [1]\n", "names": "model: {loss: [a, b]}\n",
        "key": "? [a, b]\n: 3\n", "unknown": "dta: {size: 3}\n", "colon": "data:size: 3\n",
    }.items():  # fmt: skip
        yield Input((*FIT, f"--config={written(f'forms/{name}.yaml', content)}"), REFUSED, (f"{name}.yaml",)[:0])
    for name in ("nowhere.yaml", "photos", "photos/a/0.png", "/dev/null", "/proc/self/mem", "a\nb.yaml", "x" * 300):
        yield Input((*FIT, f"--config={name}"), REFUSED, ("--config",))


# The form of a command line


@rule("command line: form")
def _() -> Iterator[Input]:
    for command in (*TRAINER, *OWN):
        yield Input((command, "--help"), RUNS)
        yield Input((command, "--nonsense"), REFUSED)
    for words in (["fits"], ["FIT"], ["--nonsense"], [""], ["fit\n"], ["-c"], ["fit fit"]):
        yield Input(tuple(words), REFUSED)
    for word in ("stray", "-", "--", "--=3", "--data", "--data.size", "---data.size=3", "-x", "--config", "",
        "data.size=3",
                 "--data.size =3", "--data.size=3 4", "--data.size=", "--data.size=3,4", "--trainer", "--model.loss.=3",
                 "--data=3", "--data.dataset=", "--model", "--ckpt_path", "--no-test", "--test=perhaps"):  # fmt: skip
        yield Input((*FIT, word), REFUSED)
    for more in (["--data.size=24", "--data.size=16"], ["--data.size", "16"], ["--config=tiny.yaml"], ["--test",
        "false"],
                 ["--test=no"], ["--seed_everything=4294967295"], ["--data.eval_batch_size=1000000000"],
                 ["--evaluation.ks=[1000000000]"], ["--evaluation.ks=[1,1]"], ["--data.batch_size=8.0"]):  # fmt: skip
        yield Input((*FIT, *more), REFUSED if more[0].endswith("8.0") else RUNS)


@rule("where a run is to lie")
def _() -> Iterator[Input]:
    for name in ("..", ".", "a/b", "/tmp", "a\nb", "x" * 300, "a\0b"):
        yield Input((*FIT, f"--name={name}"), REFUSED, ("name",))
    for name in ("", "~", "a b", "ä", "-x", "a.b", "[a]", "*", "%s", "{x}", "$HOME", "#1", "1e3", "true", "null"):
        yield Input((*FIT, f"--name={name}"), RUNS)
    for option in ("--runs_dir=file.txt", "--runs_dir=file.txt/x", "--runs_dir=/proc/x", "--data.cache_dir=file.txt/x",
                   "--experiment=../x", "--experiment=a\0b",
                   "--runs_dir=" + "x" * 300, "--data.cache_dir=/proc/x"):  # fmt: skip
        yield Input((*FIT, option), REFUSED)
    for name, value in (("LIFTED_CACHE_DIR", "file.txt"), ("LIFTED_CACHE_DIR", "/proc/x"), ("WANDB_MODE", "ofline")):
        yield Input((*FIT, "--data.size=17"), REFUSED, (), ((name, value),))
    yield Input((*FIT, "--data.dataset=Omniglot"), REFUSED, ("/nowhere",), (("LIFTED_DATA_DIR", "/nowhere"),))
