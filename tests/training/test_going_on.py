"""What a run that goes on does with schedules, with other settings, and with a loss's own state; in one process."""

import json
import math
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch import Tensor, nn

import lifted_lightning
from lifted_lightning.callbacks.checkpoints import AtomicCheckpointIO
from lifted_lightning.cli import main
from lifted_lightning.errors import RunError
from tests.helpers.tiny import FIT, blob
from tests.training.test_resume import COMPARED, assert_same, load

STEPS = 12
BASE = [*FIT, "--model.optimizer=SGD", "--model.optimizer.lr=0.01", "--data.batches_per_epoch=4"]


class Fails(nn.Module):
    """A loss with a queue as plain attributes, which ends a run at a step that the environment gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.latest = torch.zeros(())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.calls == int(os.environ.get("FAILS_AT", -1)):
            raise RuntimeError("ended here")
        self.calls += 1
        loss = (1 + 0.1 * (self.calls % 3) + self.latest) * embeddings.square().mean()
        self.latest = loss.detach() / 10
        return loss


class OnDevice(Callback):
    def __init__(self, every: int = 1, device: torch.device = torch.device("cpu")) -> None:  # noqa: B008
        self.every, self.device = every, device


class Zero(nn.Module):
    """A plain 0 where a batch has nothing to learn from, as some losses give it."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Any:
        return 0


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lifted_lightning.callbacks.pictures.BackgroundPicture.on_evaluation", lambda *args: None)


def fit(name: str, *arguments: str, code: int = 0) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert main([*BASE, f"--name={name}", *arguments]) == code
    return Path("runs/e") / name


def go_on(folder: Path, *arguments: str, code: int = 0) -> None:
    assert main(["fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last", *arguments]) == code


def rates(folder: Path) -> list[float]:
    return [group["lr"] for group in load(folder, "last")["optimizer_states"][0]["param_groups"]]


SCHEDULES = {
    "none": [],
    "WarmupCosine": ["--model.scheduler=WarmupCosine"],
    "StepLR": ["--model.scheduler=StepLR", "--model.scheduler.step_size=5"],
    "OneCycleLR": ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.02", "--model.scheduler.total_steps=12"],
    "ReduceLROnPlateau": [
        "--model.scheduler=pytorch_lightning.cli.ReduceLROnPlateau", "--model.scheduler.monitor=validation/recall@1",
        "--model.scheduler.patience=0", "--model.scheduler.mode=min",
    ],
}  # fmt: skip


FROZEN = ["--model.freeze_trunk_steps=8", "--model.optimizer=AdamW", "--model.weight_decay_on=matrices"]  # 7, then 8
ACCUMULATION = ["--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 1, 1: 2}"]


GOING_ON = SCHEDULES | {"accumulation": ACCUMULATION, "trunk frozen at first": FROZEN}


@pytest.mark.parametrize("given", GOING_ON.values(), ids=GOING_ON)
def test_a_run_that_was_ended_twice_is_the_unbroken_one(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss's plain attributes and the schedule among what goes on."""
    given = [*given, "--model.loss=tests.training.test_going_on.Fails", f"--trainer.max_steps={STEPS}"]
    given.append("--last_checkpoint.every_n_steps=1")
    unbroken = fit("unbroken", *given)
    monkeypatch.setenv("FAILS_AT", "7")  # in the middle of an epoch
    ended = fit("ended", *given, code=1)
    monkeypatch.setenv("FAILS_AT", "8")
    go_on(ended, code=1)
    monkeypatch.delenv("FAILS_AT")
    go_on(ended)
    for key in COMPARED:
        assert_same(load(ended, "last").get(key), load(unbroken, "last").get(key), key)


def test_a_schedule_is_as_long_as_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    given = SCHEDULES["WarmupCosine"]
    short = fit("short", *given, "--trainer.max_steps=6")
    epochs = fit("epochs", *given, "--trainer.max_steps=-1", "--trainer.max_epochs=3")
    assert rates(short) == rates(epochs) == [pytest.approx(0, abs=1e-12)] * 2
    go_on(short, "--trainer.max_steps=12", "--name=longer", "--test=false")
    rate = 0.01 * 0.5 * (1 + math.cos(math.pi * (6 - 0.15 * 12) / (0.85 * 12)))  # where the longer run would stand
    assert f"learning rate from step 6 on: {rate:.3g}, no longer 0\n" in capfd.readouterr().out
    logged = load(Path("runs/e/longer"), "last")["lr_schedulers"][0]
    assert (logged["last_epoch"], logged["steps"]) == (12, 12)


def test_a_length_given_by_hand_that_is_not_the_run_s_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    cosine = ["--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=5", "--trainer.max_steps=2"]
    with pytest.warns(UserWarning, match="CosineAnnealingLR's T_max is 5, and the run has 2 steps"):
        fit("cosine", *cosine, "--test=false")
    fit("one", *SCHEDULES["OneCycleLR"], "--trainer.max_steps=13", code=2)
    assert "OneCycleLR's total_steps is 12, and the run has 13 steps" in capfd.readouterr().err


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "StepLR"])  # which is as none
def test_a_changed_rate_is_applied_and_recorded(schedule: str, capfd: pytest.CaptureFixture[str]) -> None:
    given = [*SCHEDULES[schedule], "--trainer.max_steps=4", "--test=false"]
    if schedule == "OneCycleLR":
        given.append("--model.scheduler.total_steps=12")
    before = fit("before", *given)
    change = "--model.scheduler.max_lr=0.2" if schedule == "OneCycleLR" else "--model.optimizer.lr=0.1"
    more = [change, "--trainer.max_steps=8", "--name=after"]
    go_on(before, *more, "--model.optimizer.weight_decay=0.5")
    after, fresh = Path("runs/e/after"), fit("fresh", *given, *more[:2])
    if schedule != "ReduceLROnPlateau":
        assert rates(after) == pytest.approx(rates(fresh))
    groups = load(after, "last")["optimizer_states"][0]["param_groups"]
    assert all(group["weight_decay"] == 0.5 for group in groups)
    assert "going on with other settings" in (told := capfd.readouterr().out)
    assert "weight_decay 0 -> 0.5" in told or "weight_decay 0.0 -> 0.5" in told
    optimizer = yaml.safe_load((after / "config.yaml").read_text())["model"]["optimizer"]["init_args"]
    assert optimizer["weight_decay"] == 0.5


def test_what_would_break_the_run_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    folder = fit("run", "--trainer.max_steps=2", "--test=false")
    config = (folder / "config.yaml").read_text()
    (folder / "result.json").unlink()
    for change in (
        "data.batch_size=24", "data.batches_per_epoch=5", "seed_everything=1", "data.sampler.neighbours=0",
        "model.optimizer=Adam", "model.network.dropout=0.5",
    ):  # fmt: skip
        go_on(folder, f"--{change}", "--trainer.max_steps=3", code=2)
        assert f"a run cannot go on with {change.split('=')[0].rsplit('.', 1)[0]}" in capfd.readouterr().err
        assert (folder / "config.yaml").read_text() == config


def test_a_callback_s_changed_setting_is_applied(capfd: pytest.CaptureFixture[str]) -> None:
    stopping = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=validation/map@r"]
    given = [*stopping, "--trainer.callbacks.patience=30", "--test=false"]
    before = fit("run", *given, "--trainer.max_steps=4")
    changed = yaml.safe_load((before / "config.yaml").read_text())
    changed["trainer"] |= {"max_steps": 8}
    changed["trainer"]["callbacks"][0]["init_args"]["patience"] = 7
    (before / "config.yaml").write_text(yaml.safe_dump(changed))
    go_on(before, "--name=more")
    (state,) = (v for k, v in load(Path("runs/e/more"), "last")["callbacks"].items() if k.startswith("EarlyStopping"))
    assert state["patience"] == 7
    assert "trainer.callbacks.0.init_args.patience 30 -> 7; trainer.max_steps 4 -> 8\n" in capfd.readouterr().out


def test_a_schedule_by_validation_without_any_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    fit("run", *SCHEDULES["ReduceLROnPlateau"], "--data.validation_share=0", "--trainer.max_steps=2", code=2)
    assert "ReduceLROnPlateau goes by validation, and there is none" in capfd.readouterr().err


@pytest.mark.parametrize("schedule", ["OneCycleLR", "CyclicLR"])
def test_the_head_keeps_its_factor(schedule: str) -> None:
    given = SCHEDULES.get(schedule) or ["--model.scheduler=CyclicLR", "--model.scheduler.base_lr=0.01",
                                        "--model.scheduler.max_lr=0.1", "--model.scheduler.step_size_up=3"]  # fmt: skip
    folder = fit("run", *given, "--model.head_lr_factor=10", "--trainer.max_steps=12", "--test=false",
                 "--model.optimizer.momentum=0.9")  # fmt: skip
    trunk, head = rates(folder)
    assert head == pytest.approx(10 * trunk)
    assert trunk == pytest.approx(rates(fit("plain", *given, "--trainer.max_steps=12", "--test=false",
                                            "--model.optimizer.momentum=0.9"))[0])  # fmt: skip


def test_a_loss_that_gives_a_plain_0_is_told_once(recwarn: pytest.WarningsRecorder) -> None:
    folder = fit("zero", "--model.loss=tests.training.test_going_on.Zero", "--trainer.max_steps=3")
    told = [str(w.message) for w in recwarn if "without a gradient" in str(w.message)]
    assert told == ["model.loss Zero gave a number without a gradient at step 0: such steps, of which this is said "
                    "once, teach nothing"]  # fmt: skip
    assert (folder / "result.json").exists()


HABIT = """
from pathlib import Path
import lifted_lightning

class Habit(lifted_lightning.EmbeddingModule):
    def __init__(self, *args, width: int = 3, **kwargs):
        super().__init__(*args, **kwargs)
        self.save_hyperparameters()
        self.place = Path("a")

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        checkpoint["mine"] = {"place": self.place, "width": 3}
"""


def test_save_hyperparameters_by_habit(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    Path("habit.py").write_text(HABIT)
    monkeypatch.syspath_prepend(".")
    folder = fit("habit", "--model=habit.Habit", "--model.width=5", "--trainer.max_steps=2")
    assert (folder / "result.json").exists()
    saved = load(folder, "last")
    assert saved["hyper_parameters"]["width"] == 5
    assert saved["mine"] == {"width": 3}
    assert any("mine/place (PosixPath) is not kept" in str(warning.message) for warning in recwarn)
    go_on(folder, "--trainer.max_steps=4", "--name=longer")
    module = lifted_lightning.load(folder / "checkpoints" / "last.ckpt")
    assert module.embedding_size == 8


def test_signals_are_the_program_s_again_after_a_run() -> None:
    """One that Lightning's or our handler took would be lost: the program could not be ended by SIGTERM."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    fit("signals", "--trainer.max_steps=2")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    io, target = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"a": 1}, target)
    monkeypatch.setattr("lifted_lightning.callbacks.checkpoints.atomic", lambda path: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(RunError, match=r"last.ckpt: cannot be written \(No space left on device\); what was there"):
        io.save_checkpoint({"a": torch.zeros(100_000)}, target)
    assert torch.load(target, weights_only=True) == {"a": 1}


# What a checkpoint was trained on


def draw(place: str, classes: range, name: str = "class") -> None:
    """Folders of four images each."""
    for c in classes:
        folder = Path(place, f"{name}{c:02}")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(4):
            blob(f"{c}/{i}").save(folder / f"{i}.png")


def draw_split(test_classes: int) -> None:
    draw("photos/train", range(8))
    draw("photos/test", range(50, 50 + test_classes))


OWN = [
    "--data.dataset=ImageFolder", "--data.dataset.path=photos", "--data.validation_share=0.25",
    "--trainer.max_steps=2", "--data.batch_size=8",
]  # fmt: skip


def test_classes_that_were_trained_on_are_told_and_marked(recwarn: pytest.WarningsRecorder) -> None:
    """Classes by name, the half that comes first trains: eight more put classes that have trained into the test."""
    draw("photos", range(16))
    folder = fit("run", *OWN)
    assert "trained_classes" not in json.loads((folder / "result.json").read_text())
    draw("photos", range(20, 28), "a")
    test = ["test", f"--config={folder / 'config.yaml'}", "--ckpt_path=last", "--name=tested"]
    assert main(test) == 0
    trained = json.loads(Path("runs/e/tested/result.json").read_text())["trained_classes"]
    assert set(trained) <= {f"class{c:02}" for c in range(4, 8)}
    assert 2 <= len(trained) <= 4, "of four, for two of the eight validated"
    assert any(
        f"was trained on {len(trained)} of the 12 classes of this test: {trained[0]}" in str(w.message) for w in recwarn
    )
    (folder / "result.json").unlink()
    go_on(folder, "--trainer.max_steps=4", code=2)


def test_more_test_images_are_allowed_other_training_images_refused(capfd: pytest.CaptureFixture[str]) -> None:
    draw_split(4)
    folder = fit("run", *OWN)
    draw_split(6)
    go_on(folder, "--trainer.max_steps=4", "--name=more")
    blob("0/9").save("photos/train/class00/9.png")
    blob("7/9").save("photos/train/class07/9.png")
    go_on(folder, "--trainer.max_steps=4", "--name=other", code=2)
    told = capfd.readouterr().err
    assert "trained on 6 classes of photos, and here: 6 of photos, with other images: give the data" in told
    assert not Path("runs/e/other").exists()


def test_a_test_needs_no_loss_and_a_run_starts_from_another_s_weights() -> None:
    proxies = ["--model.loss=pytorch_metric_learning.losses.ProxyAnchorLoss", "--model.network=ConvNet",
               "--model.network.width=2", "--trainer.max_steps=2"]  # fmt: skip
    folder = fit("run", *proxies)
    draw_split(4)
    other = ["--data.dataset=ImageFolder", "--data.dataset.path=photos", "--name=tested"]
    assert main(["test", f"--config={folder / 'config.yaml'}", "--ckpt_path=last", *other]) == 0
    weights = f"--model.network.weights_file={folder / 'checkpoints' / 'last.ckpt'}"
    tuned = fit("tuned", *proxies, weights, "--model.optimizer.lr=0", *OWN[:3], "--data.batch_size=8")
    before, after = load(folder, "last")["state_dict"], load(tuned, "last")["state_dict"]
    for name in ("network.head.weight", "network.trunk.0.weight"):
        assert torch.equal(before[name], after[name])
    with pytest.warns(UserWarning, match="its head gives 64 dimensions, not 8: the head begins anew"):
        fit("head", *proxies, weights, "--model.network.embedding_size=8")


@pytest.mark.parametrize(
    ("callback", "written"),
    [(["Timer", "duration=00:01:00:00"], {"duration": "00:01:00:00", "interval": "step", "verbose": True}),
     (["tests.training.test_going_on.OnDevice", "every=2"], {"every": 2})],
    ids=["a default that is of an enumeration", "a device"],
)  # fmt: skip
def test_what_no_yaml_holds_is_left_out(callback: list[str], written: dict[str, Any]) -> None:
    name, *options = callback
    given = [f"--trainer.callbacks={name}", *(f"--trainer.callbacks.{option}" for option in options)]
    folder = fit("run", *given, "--trainer.max_epochs=1", "--test=false")
    (saved,) = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["callbacks"]
    assert saved["init_args"] == written
    assert main(["fit", f"--config={folder / 'config.yaml'}", "--name=again"]) == 0
