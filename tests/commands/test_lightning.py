"""What users of Lightning bring, each setting of its Trainer among it: it works, or is refused in a line."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from jsonargparse import Namespace
from PIL import Image
from pytorch_lightning import Callback, Trainer

from lifted_lightning.cli import main
from lifted_lightning.commands.fit import make_parser, parse
from lifted_lightning.commands.lightning import TIPS, check_strategy, launched
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError
from lifted_lightning.runs.embeddings import read_embeddings
from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.tiny import Blobs
from tests.training.test_resume import COMPARED, assert_same, load

BASE = [
    "fit", "--model.network=tests.helpers.tiny.TinyNetwork", "--model.loss=LiftedStructureLoss",
    "--model.augment=CropMirror", "--model.augment.size=12", "--model.optimizer=SGD", "--model.optimizer.lr=0.05",
    "--data.dataset=tests.helpers.tiny.Blobs", "--data.size=16", "--data.channels=1", "--data.batch_size=16",
    "--data.batches_per_epoch=2", "--data.eval_batch_size=20", "--trainer.max_steps=6", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--evaluation.baseline=false",
    "--evaluation.clustering=none", "--tsne.every_n=0", "--gallery.every_n=0", "--confusions.every_n=0",
    "--experiment=e", "--name=run",
]  # fmt: skip
RUN = Path("runs/e/run")


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((RUN / "result.json").read_text())

    @property
    def steps(self) -> list[int]:
        """The steps that training logged."""
        return [int(row["step"]) for row in read_metrics(RUN / "metrics.csv") if row["train/loss"]]


Check = Callable[[Done], object]


def option(text: str) -> list[str]:
    """``a=1 b=2`` as options of the trainer; ``callbacks`` with a class and its settings."""
    return [f"--trainer.{part}" for part in text.split()]


def callback(name: str, **settings: object) -> str:
    return " ".join([f"callbacks={name}", *(f"callbacks.{key}={value}" for key, value in settings.items())])


def part(stage: str, seen: int, there: int) -> Check:
    """Marked in ``result.json``, and in the table if it is the test."""

    def check(done: Done) -> None:
        assert done.result["part"][stage] == [seen, there]
        assert stage != "test" or f"a part: {seen} of {there} images" in " ".join(done.out.split())

    return check


def says(*words: str) -> Check:
    def check(done: Done) -> None:
        assert all(word in done.out + done.err for word in words), done.out + done.err

    return check


def steps(*expected: int) -> Check:
    def check(done: Done) -> None:
        assert done.steps == list(expected)
        assert done.result["steps"] == max(expected) + 1

    return check


def has(*names: str) -> Check:
    """Files in the run's folder, as patterns."""

    def check(done: Done) -> None:
        assert all(list(RUN.glob(name)) for name in names), [str(p) for p in RUN.rglob("*")]

    return check


def logs(*columns: str) -> Check:
    def check(done: Done) -> None:
        assert set(columns) <= set(next(csv.reader((RUN / "metrics.csv").open())))

    return check


class Rows(Callback):
    """Writes the images of each batch that is trained on."""

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        with (Path(trainer.default_root_dir) / "rows.txt").open("a") as file:
            print(outputs["indices"].tolist(), file=file)


def same_batches(done: Done) -> None:
    rows = (RUN / "rows.txt").read_text().splitlines()
    assert rows[::2] == [rows[0]] * 3
    assert rows[1::2] == [rows[1]] * 3 != rows[::2]


STOPPING = callback("EarlyStopping", monitor="validation/recall@1", mode="max", patience=1, min_delta=2)

# Options of the trainer, and what comes of them.
WORKS: list[tuple[str, Check]] = [
    # How long
    ("max_steps=3", steps(0, 1, 2)),
    ("max_steps=-1 max_epochs=2", steps(0, 1, 2, 3)),
    (f"{STOPPING} min_steps=5", steps(0, 1, 2, 3, 4)),
    (f"{STOPPING} min_epochs=3", steps(0, 1, 2, 3, 4, 5)),
    ("max_steps=100000 max_time=00:00:00:01", says("Time limit reached", "training ended at step")),
    (STOPPING, says("training ended at step 4: Monitored metric validation/recall@1 did not improve")),
    # How much
    ("limit_test_batches=2", part("test", 40, 160)),
    ("limit_test_batches=0.5", part("test", 80, 160)),
    ("limit_val_batches=1", part("validation", 20, 32)),
    ("limit_val_batches=0", lambda done: done.result["validation"] == {} and "part" not in done.result),
    ("fast_dev_run=true", part("test", 20, 160)),
    ("fast_dev_run=2", part("test", 40, 160)),
    ("overfit_batches=2 callbacks=tests.commands.test_lightning.Rows", same_batches),
    ("accumulate_grad_batches=2", says("gradients of losses that see one batch each", "set model.micro_batch")),
    (callback("GradientAccumulationScheduler", scheduling='{"0":2}'), steps(*range(6))),
    # When
    ("val_check_interval=1", lambda done: len(done.result["history"]) == 6),
    ("val_check_interval=0.5", lambda done: len(done.result["history"]) == 6),
    ("val_check_interval=00:00:00:01", steps(*range(6))),
    ("check_val_every_n_epoch=3", lambda done: len(done.result["history"]) == 1),
    ("num_sanity_val_steps=2", lambda done: [row["step"] for row in done.result["history"]] == [2, 4, 6]),
    ("log_every_n_steps=3", steps(2, 5)),
    # How it is computed
    ("precision=64-true benchmark=true reload_dataloaders_every_n_epochs=1", steps(*range(6))),
    ("precision=bf16-mixed gradient_clip_val=0.1 gradient_clip_algorithm=value", steps(*range(6))),
    ("deterministic=true inference_mode=false detect_anomaly=true", says("detect_anomaly")),
    # What is shown
    ("profiler=simple", says("FIT Profiler Report", "TEST Profiler Report", "run_training_batch")),
    ("profiler=SimpleProfiler profiler.filename=times", has("fit-times.txt", "test-times.txt")),
    (f"enable_model_summary=true {callback('ModelSummary', max_depth=2)}", says("Total params", "network.trunk")),
    ("enable_progress_bar=true", says("recall@1")),
    (f"enable_progress_bar=true {callback('TQDMProgressBar')}", says("Epoch 2", "it/s")),
    # What is kept
    (callback("ModelCheckpoint", save_top_k=-1), has("checkpoints/epoch=0-step=2.ckpt", "checkpoints/best.ckpt")),
    (
        " ".join(
            [
                callback("OnExceptionCheckpoint", dirpath="."),
                "callbacks+=LearningRateMonitor",
                "callbacks+=DeviceStatsMonitor callbacks.cpu_stats=true callbacks+=Timer",
            ]
        ),
        logs("lr-SGD/trunk", "DeviceStatsMonitor.on_train_batch_start/cpu_percent"),
    ),
    ("logger=CSVLogger logger.save_dir=logs", has(*(f"logs/*/version_0/{n}" for n in ("hparams.yaml", "metrics.csv")))),
    (callback("EarlyStopping", monitor="validation/map@r"), says("takes less of validation/map@r for better")),
    ("enable_autolog_hparams=false", steps(*range(6))),
]

REFUSED: list[tuple[str, tuple[str, ...]]] = [
    ("limit_train_batches=2", ("limit_train_batches", "set data.batches_per_epoch")),
    ("overfit_batches=0.5", ("overfit_batches 0.5", "whole number")),
    ("strategy=ddp_spawn", ("--trainer.strategy", "give ddp")),
    ("strategy=fsdp", ("trainer", "give other settings")),
    ("use_distributed_sampler=true", ("--trainer.use_distributed_sampler=True", "leave it out")),
    ("enable_checkpointing=false", ("--trainer.enable_checkpointing=False", "leave it out")),
    ("barebones=true", ("--trainer.barebones=True", "leave it out")),
    ("default_root_dir=here", ("--trainer.default_root_dir=here", "give --runs_dir")),
    ("model_registry=mine", ("--trainer.model_registry=mine", "leave it out")),
    (callback("TQDMProgressBar"), ("enable_progress_bar=False", "TQDMProgressBar")),
    (callback("ModelCheckpoint", save_last="true"), ("save_last", "last.ckpt is always kept")),
    (callback("LearningRateFinder"), ("LearningRateFinder", "lifted sweep")),
    (callback("BatchSizeFinder"), ("BatchSizeFinder", "model.micro_batch")),
    (callback("BackboneFinetuning"), ("BackboneFinetuning", "model.head_lr_factor")),
    (callback("StochasticWeightAveraging", swa_lrs=0.01), ("StochasticWeightAveraging", "give WeightAveraging")),
    ("logger=true", ("--trainer.logger=true", "name another")),
    ("logger=WandbLogger", ("--trainer.logger", "WANDB_PROJECT")),
    ("check_val_every_n_epoch=null val_check_interval=0.5", ("val_check_interval", "give other settings")),
]

# What this machine cannot run, or only in several processes, which other tests start.
PARSES = [
    "accelerator=gpu devices=4", "num_nodes=2", "devices=2 strategy=ddp sync_batchnorm=true", "precision=16-mixed",
    "strategy=DDPStrategy strategy.timeout=0:01:00", "devices=[0,1]", "limit_predict_batches=2",
    "plugins=SLURMEnvironment", "logger=TensorBoardLogger logger.save_dir=.",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LIFTED_DEBUG", "")
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "pixels"))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> Callable[..., Done]:
    """The command, in this process. (Pytest takes what Lightning logs and warns of, which users see.)"""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["lifted", *arguments])
        code = main(arguments)
        out, err = capfd.readouterr()
        return Done(code, out, "\n".join([err, *caplog.messages, *(f"warning: {w.message}" for w in recwarn)]))

    return call


@pytest.mark.parametrize(("options", "check"), WORKS, ids=[options for options, _ in WORKS])
def test_works(options: str, check: Check, run: Callable[..., Done]) -> None:
    done = run(*BASE, *option(options))
    assert done.code == 0, done.err
    assert done.result["test"]["recall@1"] > 0
    assert check(done) is not False
    assert [p.name for p in Path().iterdir()] == ["runs"], "all is in the run's folder"
    noise = ("Tip:", "GPU available", "Restor", "Seed set", "Test metric")
    assert not [words for words in noise if words in done.out + done.err]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[options for options, _ in REFUSED])
def test_is_refused_in_a_line(options: str, words: tuple[str, ...], run: Callable[..., Done]) -> None:
    done = run(*BASE, *option(options))
    lines = [line for line in done.err.splitlines() if line and not line.startswith(("decoding ", "warning: "))]
    assert (done.code, len(lines)) == (2, 1), done.err
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(Path().glob("runs/**/config.yaml"))


@pytest.mark.parametrize("options", PARSES)
def test_parses(options: str) -> None:
    parse("fit", [*BASE[1:], *option(options)])


def test_each_setting_of_the_trainer_has_a_row() -> None:
    parser = make_parser("fit", EmbeddingModule)
    options = [action.dest for action in parser._actions if not action.dest.endswith(".help")]
    there = {name.removeprefix("trainer.") for name in options if name.startswith("trainer.")}
    rows = " ".join([*(options for options, _ in [*WORKS, *REFUSED]), *PARSES]).split()
    assert there == {row.split("=")[0].split(".")[0].rstrip("+") for row in rows}


STEP = {"SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, {}, {}),
        ({"SLURM_NTASKS": "1"}, {}, {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}),
        (
            {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "2"} | STEP,
            {},
            {"devices": 2, "num_nodes": 2, "accelerator": "gpu"},
        ),
        ({"SLURM_NTASKS": "2"} | STEP, {"devices": 2, "accelerator": "gpu", "num_nodes": 2}, {}),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"} | STEP,
            {"devices": 1},
            {"devices": 2, "num_nodes": 1, "accelerator": "cpu"},
        ),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, {}, {}),
        (
            {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6", "SLURM_NTASKS": "1"},
            {},
            {"devices": 2, "num_nodes": 3},
        ),
    ],
    ids=[
        "by nobody",
        "SLURM, one task",
        "SLURM, GPUs on two nodes",
        "the user's own",
        "a recipe's one",
        "interactive",
        "torchrun",
    ],
)
def test_devices_are_those_of_whoever_has_started_the_processes(
    variables: dict[str, str], given: dict[str, object], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = Namespace(**({"devices": "auto", "num_nodes": 1, "accelerator": "auto"} | given))
    assert launched(trainer) == expected
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    if not variables.keys() & {"TORCHELASTIC_RUN_ID", "SLURM_JOB_NAME"}:
        with pytest.raises(UserError, match="start it by srun"):
            launched(trainer)


def test_tips_alone_are_left_out() -> None:
    tips = [
        "[rank: 1] Seed set to 0",
        "💡 Tip: install it",
        "GPU available: False, used: False",
        f"{'-' * 99}\ndistributed_backend=gloo",
    ]
    news = [
        "Time limit reached. Elapsed time is 0:00:01.",
        "FIT Profiler Report",
        "`Trainer.fit` stopped: No training batches.",
    ]
    assert [bool(TIPS.match(message)) for message in [*tips, *news]] == [True] * 4 + [False] * 3


# Weight averaging

RECIPE = Path(__file__).parents[2] / "experiments" / "modern" / "averaged.yaml"
AVERAGE = [f"--config={RECIPE}", "--trainer.callbacks.decay=0.8"]
LATER = [*AVERAGE, "--trainer.callbacks.update_starting_at_step=4"]


def test_an_average_of_weights_is_what_is_tested(run: Callable[..., Done]) -> None:
    """After fit, and from each of its checkpoints; Lightning's own callback tests what was averaged."""
    done = run(*BASE, *AVERAGE, "--trainer.max_steps=30")
    tested = done.result["test"]
    for name in ("best", "last"):
        saved = load(RUN, name)
        differ = [not torch.equal(saved["state_dict"][k], v) for k, v in saved["current_model_state"].items()]
        assert any(differ)
    again = ["test", f"--config={RUN / 'config.yaml'}", "--ckpt_path=best", "--name=again"]
    assert run(*again).code == 0
    assert json.loads(Path("runs/e/again/result.json").read_text())["test"] == tested
    torch.save(saved | {"state_dict": saved["current_model_state"]}, "raw.ckpt")
    assert run(*again[:2], "--ckpt_path=raw.ckpt", "--name=raw").code == 0
    assert json.loads(Path("runs/e/raw/result.json").read_text())["test"] != tested, "else this tests nothing"


def test_until_an_average_begins_it_is_the_weights(run: Callable[..., Done]) -> None:
    """In validations and checkpoints; Lightning's own is what they were before training, and never changes."""
    plain = run(*BASE).result["history"]
    assert run(*BASE, *LATER, "--name=later").code == 0
    later = json.loads(Path("runs/e/later/result.json").read_text())["history"]
    scores = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in (plain, later)]
    assert [row["step"] for row in plain] == [2, 4, 6]
    assert scores[0][:2] == scores[1][:2]
    assert scores[0][2] != scores[1][2]
    assert run(*BASE, *LATER, "--trainer.max_steps=3", "--name=short").code == 0
    saved = load(Path("runs/e/short"), "last")
    assert_same(dict(saved["state_dict"]), dict(saved["current_model_state"]))


MEMORY = ["--model.loss=CrossBatchMemory", "--model.loss.loss=ContrastiveLoss", "--model.loss.size=50"]
DOUBLE = "--trainer.precision=64-true"
AVERAGES = {"from the first step": AVERAGE, "later": LATER, "with a memory": [*AVERAGE, *MEMORY, DOUBLE]}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())
def test_an_average_of_weights_goes_on_exactly(average: list[str], run: Callable[..., Done]) -> None:
    """Also where training ended between two validations, where Lightning puts the average in the weights' place."""
    epochs = [*BASE, *average, "--trainer.max_steps=-1", "--trainer.check_val_every_n_epoch=3"]
    assert run(*epochs, "--trainer.max_epochs=4").code == 0
    assert run(*epochs, "--trainer.max_epochs=2", "--name=first").code == 0
    on = ["fit", "--config=runs/e/first/config.yaml", "--ckpt_path=last", "--trainer.max_epochs=4", "--name=second"]
    assert run(*on).code == 0
    one, two = load(RUN, "last"), load(Path("runs/e/second"), "last")
    for key in (*COMPARED, "current_model_state", "averaging_state", "lifted_loss"):
        assert_same(one[key], two[key], key)
    if DOUBLE in average:
        assert one["state_dict"]["network.head.weight"].dtype == torch.float64, (
            "Lightning's own would round the weights"
        )
    if MEMORY[0] in average:
        assert one["lifted_loss"] == {"batches": 8, "seen": 128}
        for name in ("loss.embeddings", "loss.labels"):
            assert torch.equal(one["state_dict"][name], one["current_model_state"][name]), "a memory has no average"


# Parts of an evaluation


def test_a_part_is_marked_wherever_it_is_shown(run: Callable[..., Done]) -> None:
    pixels = ["--evaluation.baseline=true", "--trainer.limit_test_batches=2", "--trainer.limit_val_batches=1"]
    done = run(*BASE, *pixels)
    assert done.result["part"] == {"validation": [20, 32], "test": [40, 160]}
    first = ["--data.dataset=tests.commands.test_lightning.FirstBlobs", "--name=first"]
    assert run(*BASE, "--evaluation.baseline=true", *first).code == 0
    whole = json.loads(Path("runs/e/first/result.json").read_text())
    assert "part" not in whole
    assert done.result["baseline"] == whole["baseline"], "of the same 40 images"
    test = ["test", f"--config={RUN / 'config.yaml'}", "--ckpt_path=last", "--trainer.limit_test_batches=null"]
    assert run(*test, "--name=tested").code == 0
    tested = json.loads(Path("runs/e/tested/result.json").read_text())
    assert tested["part"] == {"validation": [20, 32]}, "the checkpoint was validated so"
    report = run("report", "runs/e/run", "runs/e/tested")
    assert "e/run: of a part of the test images, not counted" in report.out + report.err
    assert run("report", "runs/e/run").code == 2
    predict = ["predict", f"--config={RUN / 'config.yaml'}", "--ckpt_path=last", "--name=p"]
    assert "40 embeddings of 160 images" in run(*predict, "--trainer.limit_predict_batches=2").out
    index = read_embeddings(Path("runs/e/p/embeddings.npz"))  # as lifted search does
    assert (index.embeddings.shape, index.size, index.distance) == ((40, 8), 16, "euclidean")
    assert len(set(index.paths.tolist())) == 40


class FirstBlobs(Blobs):
    """Those whose test are the first 40 images of the test of Blobs."""

    def table(self, root: Path) -> ImageTable:
        table = super().table(root)
        return replace(table, test=table.test[:40])


# Other loggers


def test_tensorboard_takes_pictures_tables_and_the_configuration(run: Callable[..., Done]) -> None:
    pictures = ["--tsne.every_n=1000", "--tsne.points=60", "--gallery.every_n=1000", "--gallery.rows=1"]
    done = run(*BASE, *option("logger=TensorBoardLogger logger.save_dir=."), *pictures)
    assert done.code == 0, done.err
    folder = RUN / "lightning_logs" / "version_0"
    assert "data.batch_size: 16" in (folder / "hparams.yaml").read_text()
    values = {value.tag: value for file in folder.glob("events*") for value in tensorboard_values(file.read_bytes())}
    assert "<th>most_confused_with</th>" in values["plots/per_class_test/text_summary"].tensor.string_val[0].decode()
    for name in ("tsne_test", "gallery_test"):
        shown, drawn = values[f"plots/{name}"].image, Image.open(RUN / "plots" / f"{name}.png")
        assert (shown.width, shown.height) == drawn.size
    assert "test/recall_1" in values


def tensorboard_values(content: bytes) -> Iterator[Any]:
    """What a file of TensorBoard holds: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        yield from Event.FromString(content[12:end]).summary.value
        content = content[end + 4 :]


def test_wandb_dir_is_where_wandb_records(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(Path("records").resolve()))
    done = run(*BASE)
    assert list(Path("records").glob("wandb/offline-run-*/run-*.wandb"))
    assert not list(RUN.glob("wandb/offline-run-*"))
    assert list(Path("runs/e").glob("wandb/offline-run-*/run-*.wandb")), "the experiment's list has it"
    assert f"wandb leet {Path('records').resolve() / 'wandb'}" in done.out


# Losses made of others

PML = "pytorch_metric_learning"
NESTED = [
    [f"{PML}.losses.TripletMarginLoss --model.loss.distance={PML}.distances.CosineSimilarity"],
    [f"{PML}.losses.TripletMarginLoss --model.loss.reducer={PML}.reducers.MeanReducer"],
    [f"{PML}.losses.CrossBatchMemory --model.loss.loss={PML}.losses.MultiSimilarityLoss --model.loss.memory_size=64 "
     f"--model.loss.miner={PML}.miners.MultiSimilarityMiner"],
    [f"{PML}.losses.P2SGradLoss"],
    ["CrossBatchMemory --model.loss.loss=TripletLoss --model.loss.loss.margin=0.2 --model.loss.size=64"],
    [f"CrossBatchMemory --model.loss.size=64 --model.loss.loss={PML}.losses.MultiSimilarityLoss"],
    [f"{PML}.losses.MultipleLosses --model.loss.losses",
     f"[{PML}.losses.MultiSimilarityLoss, {{class_path: {PML}.losses.TripletMarginLoss, init_args: "
     f"{{margin: 0.5, distance: {PML}.distances.CosineSimilarity}}}}]"],
]  # fmt: skip


@pytest.mark.parametrize(
    "nested", NESTED, ids=lambda nested: "".join(nested).replace(f"{PML}.", "").replace("--model.loss.", "")
)
def test_a_loss_takes_a_distance_or_a_loss_by_its_path(nested: list[str], run: Callable[..., Done]) -> None:
    words, value = f"--model.loss={nested[0]}".split(), nested[1:]
    options = [*words[:-1], "=".join([words[-1], *value])]
    first = run(*BASE, *options)
    assert first.code == 0, first.err
    assert run("fit", f"--config={RUN / 'config.yaml'}", "--name=again").code == 0
    again = json.loads(Path("runs/e/again/result.json").read_text())
    assert again["test"] == first.result["test"]


def test_a_distance_that_is_not_there_is_named(run: Callable[..., Done]) -> None:
    done = run(*BASE, f"--model.loss={PML}.losses.TripletMarginLoss", f"--model.loss.distance={PML}.distances.Cosine")
    assert done.code == 2
    assert f"--model.loss.distance={PML}.distances.Cosine: cannot be imported" in done.err


@pytest.mark.parametrize("variables", [{"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2"}, {"SLURM_NTASKS": "2"} | STEP])
def test_processes_that_would_each_be_a_run_or_wait_for_others_are_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for devices, nodes in ((1, 1), (2, 2)):
        trainer = SimpleNamespace(num_devices=devices, num_nodes=nodes, strategy=SimpleNamespace(launcher=None))
        with pytest.raises(UserError, match=r"process(es)? of this run, of which .* has started 2; give"):
            check_strategy(cast(Trainer, trainer))
        trainer.num_devices, trainer.num_nodes = 2, 1
        check_strategy(cast(Trainer, trainer))
