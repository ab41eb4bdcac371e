"""`lifted fit | validate | test | predict`: one program, from the command line to the table at the end.

parse → data module and module (network, loss) → checks → run folder → trainer → fit → the selected checkpoint on the
test classes → table: :func:`run` is to be read from top to bottom. The command line is that of LightningCLI.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import NonNegativeFloat, PositiveInt, restricted_number_type
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser

from lifted_lightning.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from lifted_lightning.callbacks.confusions import ConfusedClasses
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.gallery import RetrievalGallery
from lifted_lightning.callbacks.outputs import PredictionFile, ResultFile
from lifted_lightning.callbacks.own_metrics import rehearse
from lifted_lightning.callbacks.run_folder import RunFolder
from lifted_lightning.callbacks.tables import TablesOfTest
from lifted_lightning.callbacks.terminal import RunProgressBar, print_summary
from lifted_lightning.callbacks.tsne import TSNEPlot
from lifted_lightning.commands import arguments as command_line
from lifted_lightning.commands import checks, lightning
from lifted_lightning.data.datamodule import VALIDATION_SHARE, RetrievalDataModule
from lifted_lightning.data.images import sides
from lifted_lightning.errors import UserError, one_line
from lifted_lightning.runs.checkpoint import checkpoint_of_trial, find_checkpoint, unfinished_folder
from lifted_lightning.runs.folder import CHECKPOINTS
from lifted_lightning.runs.loggers import end_record
from lifted_lightning.runs.settings import slug
from lifted_lightning.training.batchnorm import SyncBatchNormLayers
from lifted_lightning.training.module import EmbeddingModule

# The callbacks of every run, in the order in which they are called, by the name that their options have on the
# command line (`--tsne.points`). Those of one's own, `--trainer.callbacks+=...`, come before them.
CALLBACKS: dict[str, type[Callback]] = {
    "evaluation": RetrievalEvaluation,
    "tables_of_test": TablesOfTest,
    "diagnostics": BatchDiagnostics,
    "tsne": TSNEPlot,
    "gallery": RetrievalGallery,
    "confusions": ConfusedClasses,
    "best_checkpoint": BestCheckpoint,
    "last_checkpoint": LastCheckpoint,  # saves the state of the one before it
}

TRAINER_DEFAULTS = {
    "trainer.logger": False,  # the run folder brings the loggers
    "trainer.use_distributed_sampler": False,  # global batches are sliced by rank already
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
    "trainer.log_every_n_steps": 20,
}


@contextmanager
def refused(*errors: type[Exception]) -> Iterator[None]:
    """What Lightning says of settings that it does not take becomes the user's error."""
    try:
        yield
    except errors as error:
        raise UserError(f"trainer: {one_line(error).rstrip('.')}; give other settings") from error


@refused(MisconfigurationException)
def run(command: str, arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` with these arguments; returns the exit code.

    Raises:
        UserError, RunError: what the user can mend, and what ended the run.
    """
    # Parse.
    lightning.quiet()
    parser, config = read_arguments(command, arguments)
    try:
        return run_parsed(command, parser, config)
    finally:
        end_record(config.logger_timeout, exit_code=int(sys.exc_info()[0] is not None))


def run_parsed(command: str, parser: "Parser", config: Namespace) -> int:
    """What :func:`run` does once the command line is parsed; it returns the exit code."""
    if config.ckpt_path:
        config.ckpt_path = str(find_checkpoint(config.as_dict()))

    # Data module, network, loss, module and callbacks, as the configuration names them.
    seed_everything(config.seed_everything, workers=True)
    try:
        built = parser.instantiate(config)
    except ValueError as error:
        command_line.retell(error)
    data, module = built.data, built.model
    module.augment.match(module.network, sides(data.size))

    own = built.trainer.callbacks or []
    own = own if isinstance(own, list) else [own]
    settings = settings_of(parser, config)

    # What fits together only now, before anything is written.
    lightning.check_settings(config.trainer)
    names = built.evaluation.metric_names
    lightning.check_callbacks([*own, built.best_checkpoint], [f"validation/{name}" for name in names])
    loggers = lightning.own_loggers(built.trainer.logger)
    own_names = rehearse(built.evaluation.own, data, getattr(module.network, "embedding_size", None) or 8)
    checks.check_run(config, data, module, [*names, *own_names])
    if command in ("fit", "validate"):
        checks.check_validation_classes(data)
    if command == "validate" or (command == "fit" and not config.test):
        remedy = "use lifted test" if command == "validate" else "leave out --test false"
        checks.check_validation(data, config.trainer.limit_val_batches, remedy)
    parent = Path(config.runs_dir) / (config.experiment or slug(data.table.name))
    continued, known = None, list[str]()
    if command == "fit" and not config.ckpt_path:
        config.ckpt_path = checkpoint_of_trial(parent, settings)
    if config.ckpt_path:
        checkpoint = Path(config.ckpt_path)
        checks.check_checkpoint(module, checkpoint, with_loss=command == "fit")
        if command == "fit":
            checks.check_goes_on(checkpoint)
            if (continued := unfinished_folder(checkpoint)) is None:  # else its evaluation is left to do
                checks.check_left_to_train(checkpoint, config.trainer.max_steps, config.trainer.max_epochs)
            checks.check_same_classes(data, checkpoint)
            checks.check_changes(settings, checkpoint, module)
        elif command != "predict":
            known = checks.trained_classes(data, checkpoint, "test" if command == "test" else "validation")

    # The run's folder, and what is written there.
    summary = {
        "seed": int(config.seed_everything),  # not of a type of its own, which W&B takes for a text
        "dataset": data.table.name,
        "loss": type(module.loss).__name__,
        "embedding_size": getattr(module.network, "embedding_size", None),
    }
    name = config.name or default_name(command, summary, data.fold)
    header = f"# lifted {command} --config <this file> repeats the run\n"
    folder = RunFolder(parent, name, settings, summary, continued, header, loggers, config.logger_timeout)

    # The trainer.
    callbacks = [folder, ResultFile(built.evaluation, settings, summary, known)]
    if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in own):
        callbacks.append(RunProgressBar())
    if command == "predict":
        callbacks.append(PredictionFile(built.evaluation.distance))
    callbacks += [*lightning.trained_with(own, command), *(built[key] for key in CALLBACKS)]
    layers = [SyncBatchNormLayers()] if config.trainer.sync_batchnorm else []
    plugins = [AtomicCheckpointIO(), *layers, *(built.trainer.plugins or [])]
    with refused(TypeError, ValueError, ImportError):
        given = {**built.trainer, **lightning.launched(config.trainer)}
        trainer = Trainer(**{**given, "callbacks": callbacks, "plugins": plugins, "logger": False})
    lightning.check_strategy(trainer)

    # Fit, then the selected checkpoint on the test classes: once, or not at all with `--test false`.
    # weights_only: never unpickle what a checkpoint may hold besides tensors and plain values
    task: dict[str, Any] = {"model": module, "datamodule": data, "ckpt_path": config.ckpt_path, "weights_only": True}
    if command == "predict":
        trainer.predict(**task, return_predictions=False)
        return 0
    if command == "fit":
        trainer.fit(**task)
        lightning.say_why_it_ended(trainer)
        trainer.callbacks = lightning.trained_with(trainer.callbacks, "test")  # type: ignore[attr-defined]
        task["ckpt_path"] = selected_checkpoint(trainer)
    tested = command == "test" or (command == "fit" and config.test)
    evaluate = trainer.test if tested else trainer.validate
    evaluate(**task, verbose=False)

    # The table.
    if trainer.is_global_zero:
        print_summary(Path(trainer.default_root_dir), "test" if tested else "validation", command == "fit")
    return 0


def selected_checkpoint(trainer: Trainer) -> Path:
    """The best checkpoint on the validation classes; without a validation, the last."""
    if not trainer.fit_loop.epoch_loop.global_step:
        raise UserError("nothing was trained, so there is nothing to test: raise trainer.max_time")
    best = Path(trainer.default_root_dir) / CHECKPOINTS / "best.ckpt"
    return best if trainer.strategy.broadcast(best.exists()) else best.with_name("last.ckpt")


def default_name(command: str, summary: dict[str, Any], fold: int | None = None) -> str:
    """A run's name: loss, embedding size, fold if there are any, and seed."""
    part = "" if fold is None else f"-fold{fold}"
    name = f"{slug(summary['loss'].removesuffix('Loss'))}-{summary['embedding_size']}d{part}-seed{summary['seed']}"
    return name if command == "fit" else f"{name}-{command}"


def settings_of(parser: "Parser", config: Namespace) -> dict[str, Any]:
    """The configuration as ``config.yaml`` has it: all that repeats the run, and nothing of how it was given.

    A default of a class that no YAML can hold, a device say, is left out, for it is the default again.
    """
    settings: dict[str, Any] = yaml.safe_load(parser.dump(_plain(config), skip_unset=False, skip_link_targets=True))
    settings.pop("config", None)
    return _writable(settings) | {"ckpt_path": None}


def _plain(value: Any) -> Any:
    """Texts of an enumeration, which the dump refuses, as their text."""
    if isinstance(value, Namespace):
        return Namespace(**{key: _plain(item) for key, item in vars(value).items()})
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, str) and isinstance(value, Enum) else value


def _writable(value: Any) -> Any:
    unwritten = "Unable to serialize instance"  # jsonargparse's words in the place of an object
    if isinstance(value, dict):
        return {k: _writable(v) for k, v in value.items() if not (isinstance(v, str) and v.startswith(unwritten))}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def parse(command: str, arguments: list[str]) -> dict[str, Any]:
    """The complete configuration that these arguments give, as plain dictionaries; nothing is run.

    Raises:
        UserError: if the command would not take them.
    """
    lightning.quiet()
    config: dict[str, Any] = read_arguments(command, arguments)[1].as_dict()
    return config


# The command line


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with the nearest name, instead of usage and a trace of causes."""

    arguments: ClassVar[list[str]] = []  # of the parsers of the classes that it meets, too

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        options = sorted({action.dest for action in self._actions})
        raise UserError(command_line.shorten(message, options, self.arguments)) from ex


def read_arguments(command: str, arguments: list[str]) -> tuple[Parser, Namespace]:
    """Parse a command line; an option wins over every ``--config``, before or after it.

    Returns:
        The parser, which builds what the configuration names, and the configuration.

    Raises:
        UserError: for the first argument that the command does not take.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own loss.py; absolute, for jsonargparse changes the folder
    command_line.set_up_parsing()
    configs, model_class, options = command_line.split(arguments)
    module_class = command_line.import_class(model_class, EmbeddingModule) if model_class else EmbeddingModule
    parser = make_parser(command, module_class)
    Parser.arguments = [*(f"--config={config}" for config in configs), *options]
    if model_class:
        Parser.arguments.append(f"--model_class={model_class}")
    config = parser.parse_args(Parser.arguments)
    if config.data.validation_share is None and config.data.folds is None:  # told in config.yaml
        config.data.validation_share = VALIDATION_SHARE
    if config.model.get("loss"):
        config.model.loss = command_line.name_classes(config.model.loss, "model.loss")
    given = config.clone()
    given.pop("model.loss.init_args.num_classes", None)  # null until the data module, which tells it, is made
    set_parsing_settings(unset_sentinel=True)  # else null is taken for "not given", and every class is given it
    try:
        parser.validate(given)
    except TypeError as error:
        parser.error(str(error), error)
    finally:
        set_parsing_settings(unset_sentinel=False)
    return parser, config


def make_parser(command: str, module_class: type[EmbeddingModule]) -> Parser:
    """The options of one command, in the order in which ``config.yaml`` has them."""
    parser = Parser(
        prog=f"lifted {command}",
        allow_abbrev=False,
        usage=f"lifted {command} --config FILE [--config FILE ...] [options]",
        description="An option stands on the command line or, without its dashes, in a YAML file given by --config.",
    )
    parser.add_argument("-c", "--config", action="config", help="A YAML file of options; a later one wins.")
    seed = restricted_number_type("seed", int, [(">=", 0), ("<", 2**32)])
    parser.add_argument("--seed_everything", type=seed, default=0, help="Seed of weights, batches and augmentation.")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults(TRAINER_DEFAULTS)
    parser.add_lightning_class_args(module_class, "model")
    parser.add_lightning_class_args(RetrievalDataModule, "data")
    parser.set_defaults({"data.sampler": {"class_path": "PositivePairs"}})  # its options may be given without it
    parser.add_argument("--model_class", type=str | None, help="A subclass of EmbeddingModule, by class path.")
    parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
    parser.add_argument("--experiment", type=str | None, help="The folder in it; by default the data set's name.")
    parser.add_argument("--name", type=str | None, help="The run's folder; by default loss, size and seed.")
    tested = "Whether fit ends with the test classes; false, for tuning, with the validation classes."
    parser.add_argument("--test", type=bool, default=True, help=tested)
    tuned = "How many trials stand behind these settings, for the record; the best.yaml of a sweep has it."
    parser.add_argument("--tuning_trials", type=PositiveInt | None, help=tuned)
    waited = "Seconds that a logger may take, W&B's server too, before it is left alone and the run goes on."
    parser.add_argument("--logger_timeout", type=NonNegativeFloat, default=30.0, help=waited)
    for key, callback in CALLBACKS.items():
        parser.add_lightning_class_args(callback, key)
    parser.add_argument(
        "--ckpt_path", type=str | None, help="A checkpoint to go on from or to evaluate: last, best, or a file."
    )
    parser.link_arguments("seed_everything", "model.seed")
    parser.link_arguments("seed_everything", "data.seed")
    for name in ("embedding_size", "descriptors_dim"):  # the latter in pytorch-metric-learning's P2SGradLoss
        parser.link_arguments("model.network.init_args.embedding_size", f"model.loss.init_args.{name}")
    parser.link_arguments("data.num_classes", "model.loss.init_args.num_classes", apply_on="instantiate")
    return parser
