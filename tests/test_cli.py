"""The command line: what it accepts, and one clear line for what it does not. Real runs are in test_fit.py."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifted_lightning.cli import main

QUICKSTART = str(Path(__file__).parents[1] / "experiments" / "quickstart.yaml")
OWN_IMAGES = [
    "--data.dataset=ImageFolder",
    "--data.dataset.path=images",
    "--data.channels=1",
    "--data.batch_size=8",
    "--data.samples_per_class=2",
]
Outcome = tuple[int, str]


@pytest.fixture
def lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command in an empty folder with some images; gives its exit code and what it wrote as errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("LIFTED_DATA_DIR", raising=False)
    for row in range(24):
        add_image(tmp_path / "images" / "abcdef"[row // 4] / f"{row}.png", row)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lifted", *arguments])
        capsys.readouterr()
        code = main(list(arguments))
        return code, capsys.readouterr().err

    return run


def add_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)).save(path)


WRONG_OPTIONS = [
    (["--model.embeding_size=3"], ["--model.embeding_size", "did you mean --model.network.embedding_size?"]),
    (["--model.loss=LiftedStructreLoss"], ["LiftedStructreLoss", "did you mean LiftedStructureLoss?"]),
    (["--model.loss=Nonsense"], ["Nonsense", "ContrastiveLoss, LiftedStructureLoss, TripletLoss"]),
    (["--model.loss.margn=3"], ["--model.loss.margn", "did you mean --model.loss.margin?"]),
    (["--model.loss.margin=abc"], ["--model.loss.margin=abc", "float"]),
    (["--model.loss=torch.nn.Nope"], ["torch.nn.Nope", "cannot be imported"]),
    (["--trainer.max_stps=3"], ["--trainer.max_stps", "did you mean --trainer.max_steps?"]),
    (["--data.dataset=Omnglot"], ["Omnglot", "did you mean Omniglot?"]),
    (["--seed_everything=x"], ["--seed_everything=x", "int"]),
    (["--data.batch_size=many"], ["--data.batch_size=many", "int"]),
    (["stray"], ["'stray'", "begin with --"]),
    (["--model=nope.Thing"], ["nope.Thing", "No module named"]),
    (["--model=pathlib.Path"], ["pathlib.Path", "EmbeddingModule"]),
    (["--config=nope.yaml"], ["nope.yaml", "no such file"]),
    (["--ckpt_path=nope.ckpt"], ["nope.ckpt", "no such file"]),
    (["--ckpt_path=last"], ["last", "no such checkpoint"]),
    (["--data.validation_share=1.5"], ["validation_share 1.5"]),
    (["--data.size=0"], ["data.size 0"]),
    (["--model.network.embedding_size=0"], ["embedding_size=0"]),
    (["--model.micro_batch=0"], ["micro_batch is 0"]),
    (["--model.augment=CropMirror", "--model.augment.size=99"], ["size=99", "40x40"]),
    (["--data.channels=3"], ["3x40x40", "data.channels"]),
    (["--data.dataset=Omniglot", "--data.root=/nowhere"], ["/nowhere", "lifted data prepare omniglot"]),
    (["--trainer.accelerator=cuda", "--trainer.devices=99"], ["accelerator"]),
    (["--model.network=EmbeddingNetwork", "--model.network.trunk=resnt50"], ["resnt50", "resnet50"]),
]


@pytest.mark.parametrize(("options", "words"), WRONG_OPTIONS, ids=lambda value: value[0] if value else "")
def test_a_wrong_option_is_one_line_with_the_remedy(
    lifted: Callable[..., Outcome], options: list[str], words: list[str]
) -> None:
    code, message = lifted("fit", "--config", QUICKSTART, *options)
    assert code == 2
    said = [line for line in message.splitlines() if line.startswith("lifted fit: ")]
    assert len(said) == 1
    assert "Traceback" not in message
    assert all(word in said[0] for word in words), said[0]
    assert not Path("runs").exists(), "nothing is half-written"


def test_a_missing_network_says_what_is_missing(lifted: Callable[..., Outcome]) -> None:
    code, message = lifted("fit")
    assert code == 2
    assert "--model.network is missing" in message


WRONG_IMAGES: list[tuple[Callable[[], object], list[str], list[str]]] = [
    (lambda: add_image(Path("images/single/0.png")), [], ["single", "one image"]),
    (lambda: Path("images/empty").mkdir(), [], ["empty", "no images"]),
    (lambda: Path("images/a/broken.png").write_text("no image"), [], ["broken.png", "skip_broken"]),
    (lambda: None, ["--data.dataset.path=elsewhere"], ["elsewhere", "no such folder"]),
    (lambda: None, ["--data.batch_size=64"], ["batch_size 64", "32 classes"]),
    (lambda: None, ["--data.batch_size=7"], ["batch_size 7", "6 or 8"]),
]


@pytest.mark.parametrize(("spoil", "options", "words"), WRONG_IMAGES, ids=[w[2][0] for w in WRONG_IMAGES])
def test_wrong_images_are_named(
    lifted: Callable[..., Outcome], spoil: Callable[[], object], options: list[str], words: list[str]
) -> None:
    spoil()
    code, message = lifted("fit", "--config", QUICKSTART, *OWN_IMAGES, *options)
    assert code == 2
    assert all(word in message for word in words), message
    assert not Path("runs").exists()


def test_a_file_that_is_no_checkpoint(lifted: Callable[..., Outcome]) -> None:
    Path("fake.ckpt").write_text("nothing")
    code, message = lifted("test", "--config", QUICKSTART, *OWN_IMAGES, "--ckpt_path=fake.ckpt")
    assert code == 2
    assert "fake.ckpt: is no checkpoint" in message


def test_an_unknown_command_gets_the_nearest(lifted: Callable[..., Outcome]) -> None:
    assert lifted("fitt") == (2, "lifted: no command 'fitt'; did you mean fit?\n")


def test_help_lists_our_losses_and_no_layers_of_torch(
    lifted: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "lifted_lightning.losses.LiftedStructureLoss" in text
    assert "torch.nn." not in text.split("--model.loss")[1].split("--model.augment")[0]
