"""`lifted fit | validate | test | predict`: LightningCLI with this package's defaults, folders and errors."""

import logging
import os
import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from lifted_lightning import losses, processes
from lifted_lightning.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from lifted_lightning.callbacks.diagnostics import BatchDiagnostics
from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.gallery import RetrievalGallery
from lifted_lightning.callbacks.results import PredictionFile, ResultFile
from lifted_lightning.callbacks.run_folder import RunFolder
from lifted_lightning.callbacks.tables import PerClassTable, RecallCurve
from lifted_lightning.callbacks.terminal import RunProgressBar, print_summary
from lifted_lightning.callbacks.tsne import TSNEPlot
from lifted_lightning.commands import arguments as messages
from lifted_lightning.commands.arguments import set_up_parsing
from lifted_lightning.commands.checks import (
    check_checkpoint,
    check_images_fit,
    check_left_to_train,
    check_monitor,
    check_optimizer,
    resolve_checkpoint,
)
from lifted_lightning.commands.parser import CommandParser
from lifted_lightning.data import augment, datasets
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CHECKPOINTS, unfinished_folder
from lifted_lightning.runs.settings import slug
from lifted_lightning.training import networks, schedules
from lifted_lightning.training.batchnorm import SyncBatchNormLayers
from lifted_lightning.training.module import EmbeddingModule

TRAINER_DEFAULTS = {
    "logger": False,  # the run folder brings the loggers
    "use_distributed_sampler": False,  # global batches are sliced by rank already
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 20,
}


SHORT_NAMES = (
    losses,
    networks,
    augment,
    datasets,
    schedules,
)  # the parser knows the short names of classes that are imported


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with the nearest name, instead of usage and a trace of causes."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        subcommands = self._subcommands_action.choices.values() if self._subcommands_action else ()
        actions = [action for parser in (self, *subcommands) for action in parser._actions]
        raise UserError(messages.shorten(message, sorted({a.dest for a in actions}), sys.argv)) from ex


class LiftedCLI(LightningCLI):
    """One subcommand's parser; the run's folder, loggers and checkpoints are this package's."""

    def __init__(self, command: str, module_class: type[EmbeddingModule]) -> None:
        self.command = command
        super().__init__(
            module_class,
            RetrievalDataModule,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={command: {"prog": f"lifted {command}"}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {self.command: LightningCLI.subcommands()[self.command]}

    def setup_parser(self, *args: Any) -> None:
        super().setup_parser(*args)
        if self.command in ("validate", "test"):
            self._parser(self.command).set_defaults(verbose=False)  # ours is the table

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Seed of weights, batches and augmentation.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--model_class", type=str | None, help="A subclass of EmbeddingModule, by class path.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
        parser.add_argument("--experiment", type=str | None, help="The folder in it; by default the data set's name.")
        parser.add_argument("--name", type=str | None, help="The run's folder; by default loss, size and seed.")
        parser.add_argument(
            "--test",
            type=bool,
            default=True,
            help="Whether fit ends with the test classes; false, for tuning, with the validation classes.",
        )
        parser.add_lightning_class_args(RetrievalEvaluation, "evaluation")
        parser.add_lightning_class_args(BatchDiagnostics, "diagnostics")
        parser.add_lightning_class_args(TSNEPlot, "tsne")
        parser.add_lightning_class_args(RetrievalGallery, "gallery")
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments(
            "model.network.init_args.embedding_size", "model.loss.init_args.embedding_size", apply_on="parse"
        )
        parser.link_arguments("data.num_classes", "model.loss.init_args.num_classes", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the command line as it is (Lightning lets the checkpoint's settings override it silently)."""

    # The run

    def before_instantiate_classes(self) -> None:
        config = self.config[self.command]
        config["weights_only"] = True  # never unpickle what a checkpoint may hold besides tensors and plain values
        if config.get("ckpt_path"):
            config["ckpt_path"] = str(resolve_checkpoint(config))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.command]
        checkpoint = config.get("ckpt_path")
        existing = unfinished_folder(Path(checkpoint)) if checkpoint and self.command == "fit" else None
        self._check(config, existing)
        saved = yaml.safe_load(self._parser(self.command).dump(config, skip_unset=False, skip_link_targets=True))
        for unshared in ("config", "verbose"):  # no settings of a run: `lifted fit` has no verbose
            saved.pop(unshared, None)
        saved["ckpt_path"] = None
        summary = self._summary(config)
        folder = RunFolder(
            Path(config["runs_dir"]) / (config["experiment"] or slug(summary["dataset"])),
            config["name"] or default_name(summary, self.command),
            saved,
            summary,
            existing=existing,
            header=f"# lifted {self.command} --config <this file> repeats the run\n",
        )
        results = ResultFile(self.config_init[self.command]["evaluation"], saved, summary)
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        own: list[Any] = [folder, results, PerClassTable(), RecallCurve()]
        if trainer_config.get("enable_progress_bar") is not False:
            own.append(RunProgressBar())
        if self.command == "predict":
            own.append(PredictionFile())
        given = trainer_config.get("callbacks") or []
        trainer_config["callbacks"] = [*own, *(given if isinstance(given, list) else [given])]
        layers = [SyncBatchNormLayers()] if trainer_config.get("sync_batchnorm") else []
        trainer_config["plugins"] = [AtomicCheckpointIO(), *layers, *(trainer_config.get("plugins") or [])]
        extra = [self._get(self.config_init, key) for key in self._parser(self.command).callback_keys]
        self.folder = folder
        try:
            trainer = self._instantiate_trainer(trainer_config, extra)
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split()).rstrip('.')}; give other settings") from error
        processes.watch(trainer.strategy.launcher, trainer.world_size, self.command)
        return trainer

    def _check(self, config: Namespace, existing: Path | None) -> None:
        """Say what does not fit together before the run's folder is made.

        Raises:
            UserError: for the first mistake found.
        """
        check_images_fit(self.model, self.datamodule)
        if type(self.model) is EmbeddingModule:  # another's optimiser may need the trainer
            check_optimizer(self.model)
        if type(self.model) is EmbeddingModule and not config["trainer.callbacks"]:  # else more may be logged
            names = self.config_init[self.command]["evaluation"].metric_names
            check_monitor(config["best_checkpoint.monitor"], [f"validation/{name}" for name in names])
        validated = self.command == "validate" or (self.command == "fit" and not config["test"])
        if validated and not len(self.datamodule.validation_rows):
            remedy = "use lifted test" if self.command == "validate" else "leave out --test false"
            raise UserError(f"data.validation_share 0: there are no validation classes; raise it, or {remedy}")
        if config.get("ckpt_path"):
            check_checkpoint(self.model, Path(config["ckpt_path"]))
            if self.command == "fit" and existing is None:  # else its evaluation is left to do
                limits = config["trainer.max_steps"], config["trainer.max_epochs"]
                check_left_to_train(Path(config["ckpt_path"]), *limits)

    def _summary(self, config: Namespace) -> dict[str, Any]:
        return {
            "seed": config["seed_everything"],
            "dataset": self.datamodule.table.name,
            "loss": type(self.model.loss).__name__,
            "embedding_size": getattr(self.model.network, "embedding_size", None),
        }

    def after_fit(self) -> None:
        """Evaluate the selected checkpoint once on the test classes (in tuning, again on the validation classes)."""
        best = Path(self.trainer.default_root_dir) / CHECKPOINTS / "best.ckpt"
        last = best.with_name("last.ckpt")
        selected = best if self.trainer.strategy.broadcast(best.exists()) else last
        stage = "test" if self.config[self.command]["test"] else "validation"
        evaluate = self.trainer.test if stage == "test" else self.trainer.validate
        evaluate(self.model, datamodule=self.datamodule, ckpt_path=selected, weights_only=True, verbose=False)
        self._show(stage)

    def after_test(self) -> None:
        self._show("test")

    def after_validate(self) -> None:
        self._show("validation")

    def _show(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            print_summary(Path(self.trainer.default_root_dir), stage)


def default_name(summary: dict[str, Any], command: str) -> str:
    """A run's name: loss, embedding size and seed."""
    name = f"{slug(summary['loss'].removesuffix('Loss'))}-{summary['embedding_size']}d-seed{summary['seed']}"
    return name if command == "fit" else f"{name}-{command}"


def run(command: str, arguments: list[str]) -> int:
    """Run one of Lightning's commands with these arguments; returns the exit code.

    Raises:
        UserError, RunError: what the user can mend, and what ended the run.
    """
    sys.path.insert(0, os.getcwd())  # a user's own loss.py; absolute, for jsonargparse changes the folder
    quiet()
    set_up_parsing()
    arguments, module = own_module(arguments)
    sys.argv = [sys.argv[0], command, *arguments]
    try:
        LiftedCLI(command, module)
    except MisconfigurationException as error:
        raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; give other settings") from error
    return 0


def quiet() -> None:
    """Leave out the libraries' tips and deprecation notes, which are not about what the user did."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        r"Grad strides do not match bucket view strides.*",  # of 1x1 convolutions, where strides say nothing
        r".*LeafSpec.*",
        r".*does not have many workers.*",
        r".*is not resumable.*",
        r".*number of training batches.*is smaller than the logging interval.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r"It is recommended to use `self\.log.*",
        r".*srun.*",
        r"Total length of `list` across ranks is zero.*",  # there are no validation classes
    ):
        warnings.filterwarnings("ignore", pattern)


class _Parsing(LiftedCLI):
    """Parses, and stops there."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse(command: str, arguments: list[str]) -> dict[str, Any]:
    """The complete configuration that these arguments give, as plain dictionaries; nothing is run.

    Raises:
        UserError: if the command would not take them.
    """
    argv, path = sys.argv, sys.path[:]
    sys.path.insert(0, os.getcwd())
    quiet()
    set_up_parsing()
    try:
        arguments, module = own_module(arguments)
        sys.argv = [argv[0], command, *arguments]
        config: dict[str, Any] = _Parsing(command, module).config[command].as_dict()
    finally:
        sys.argv, sys.path = argv, path
    return config


def own_module(arguments: list[str]) -> tuple[list[str], type[EmbeddingModule]]:
    """Turn ``--model=my_file.MyModule`` into ``--model_class=...``, and import that class or the configuration's.

    Raises:
        UserError: if it cannot be imported or is no EmbeddingModule.
    """
    parser = CommandParser("lifted fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model_class", dest="path")
    parser.add_argument("--config", "-c", action="append", default=[])
    known, _ = parser.parse_known_args(arguments)
    given = [_model_class_of(Path(config)) for config in known.config]
    path = known.path or next((path for path in reversed(given) if path), None)
    if path is None:
        return arguments, EmbeddingModule
    try:
        module = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--model={path}: cannot be imported ({error}); give MODULE.CLASS, importable from here"
        ) from error
    if not (isinstance(module, type) and issubclass(module, EmbeddingModule)):
        raise UserError(f"--model={path}: is no subclass of lifted_lightning.EmbeddingModule")
    rest = parser.parse_known_args(arguments)[1]
    configs = [part for config in known.config for part in ("--config", config)]
    return [*configs, *rest, f"--model_class={path}"], module


def _model_class_of(config: Path) -> str | None:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {config}: no such file; the path is relative to here") from None
    except OSError as error:
        raise UserError(f"--config {config}: cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>"', "").split())
        raise UserError(f"--config {config}: is no valid YAML ({reason}); mend it there") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {config}: holds no settings; see experiments/quickstart.yaml for some")
    return content.get("model_class")
