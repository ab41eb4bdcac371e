"""`lifted check`: whether a loss, a network, a sampler, a data set or an augmentation does what training relies on."""

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from lifted_lightning.commands.arguments import CommandParser, retell
from lifted_lightning.errors import UserError

PARTS = {  # what can be checked, and the name of its setting in `lifted fit`
    "loss": "model.loss",
    "network": "model.network",
    "sampler": "data.sampler",
    "dataset": "data.dataset",
    "augment": "model.augment",
}
TOLD = {  # what a contract is told of `data`, where it is given
    "network": ("size", "channels"),
    "sampler": ("batch_size",),
    "dataset": ("root",),
    "augment": ("size", "channels"),
}
SIZE, CLASSES = 8, 100  # of the embeddings and of the data, as a loss that asks for them is told
STAND_INS = (  # for parts that are not checked
    "--model.loss=ContrastiveLoss", "--model.network=ConvNet", f"--model.network.embedding_size={SIZE}",
    "--model.augment=CropMirror", "--data.dataset=Glyphs",
)  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code, 1 if anything fails that must hold."""
    parser().parse_known_args(arguments)
    options = _joined(arguments)
    parts = [part for part in PARTS if any(_belongs(option, part) for option in options)]
    if not parts:
        raise UserError(f"nothing to check: give {', '.join(f'--{part}' for part in PARTS)}, as lifted fit takes them")
    from lifted_lightning import testing

    failed = False
    for part in parts:
        built, told = build(part, options)
        found = getattr(testing, f"check_{part}")(built, **told)
        found.show()
        failed |= bool(found.failed)
    return int(failed)


def parser() -> argparse.ArgumentParser:
    """The options of `lifted check`, for its help; `lifted fit` knows which the parts take."""
    result = CommandParser(
        prog="lifted check",
        allow_abbrev=False,
        description="Check one's own part of a run: print what holds, what fails (with the smallest input that shows "
        "it), and what is good to know. The exit code is 1 if anything fails that must hold.",
    )
    for part, key in PARTS.items():
        result.add_argument(
            f"--{part}", metavar="CLASS", help=f"as lifted fit takes --{key}, with its settings as --{part}.NAME=VALUE"
        )
    result.add_argument("-c", "--config", metavar="FILE", action="append", help="a YAML file of settings of lifted fit")
    return result


def build(part: str, options: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Make a part as `lifted fit` would; the other parts are put in place of what the options say of them.

    Returns:
        The part, and what its contract is told of the data: all that is not as it is by default.

    Raises:
        UserError: for an option that `lifted fit` would not take, under the name that it has here.
    """
    from jsonargparse import Namespace
    from torch import nn

    from lifted_lightning.commands.fit import Parser, read_arguments
    from lifted_lightning.data.batches import GlobalBatchSampler
    from lifted_lightning.data.datamodule import RetrievalDataModule
    from lifted_lightning.data.datasets import RetrievalDataset

    bases: dict[str, type] = {"sampler": GlobalBatchSampler, "dataset": RetrievalDataset}
    key = PARTS[part]
    own = [option for option in options if _belongs(option, part) or not any(_belongs(option, p) for p in PARTS)]
    given = [option.replace(f"--{part}", f"--{key}", 1) if _belongs(option, part) else option for option in own]
    given += [option for option in STAND_INS if not option.startswith(f"--{key}")]
    try:
        config = read_arguments("fit", given)[1]
        asked = config[key]
        maker = Parser()
        maker.add_subclass_arguments(bases.get(part, nn.Module), part, fail_untyped=False)
        usual = inspect.signature(RetrievalDataModule).parameters
        told = {name: config.data[name] for name in TOLD.get(part, ()) if config.data[name] != usual[name].default}
        if part == "network" and isinstance(channels := asked.get("init_args", {}).get("channels"), int):
            told.setdefault("channels", channels)
        if "num_classes" in asked.get("init_args", {}):  # which the data would tell
            asked.init_args.num_classes = told["num_classes"] = CLASSES
        return maker.instantiate(Namespace({part: asked}))[part], told
    except ValueError as error:
        retell(error)
    except UserError as error:
        raise UserError(str(error).replace(f"--{key}", f"--{part}")) from error


def _belongs(option: str, part: str) -> bool:
    """Whether an option is a part's, or of its settings."""
    return option.split("=")[0].split(".")[0] == f"--{part}"


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with each option and its value as one: ``--loss X`` as ``--loss=X``."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
