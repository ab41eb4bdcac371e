"""What is said of wrong inputs, over all commands: one line with the thing and the remedy, and nothing written."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lifted_lightning.cli import OWN as OWN_COMMANDS
from lifted_lightning.cli import TRAINER, main
from lifted_lightning.runs.embeddings import Embeddings
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[2]
FIT = "fit --config base.yaml"
FOLDER = f"{FIT} --data.dataset.path"
TABLE = f"{FIT} --data.dataset=TableFile --data.dataset.path"
EMBED, SEARCH = "embed photos --ckpt best.ckpt", "search photos/0/0.png --index index.npz"
VIT = f"{FIT} --model.network=EmbeddingNetwork --model.network.trunk=timm:test_vit --model.network.pretrained=false"
WEIGHTS = f"{FIT} --model.network=EmbeddingNetwork --model.network.trunk=squeezenet1_1"

# A command line, and what its message must have: the thing, and the remedy.
WRONG: list[tuple[str, ...]] = [
    ("fitt", "'fitt'", "did you mean fit?"),
    ("frobnicate", "'frobnicate'", "see lifted --help"),
    # lifted fit: options
    ("fit", "--model.network is missing", "--config"),
    (f"{FIT} stray", "unrecognized arguments: stray"),
    (f"{FIT} --trainer.max_stps=3", "--trainer.max_stps", "did you mean --trainer.max_steps?"),
    (f"{FIT} --model.embeding_size=3", "embeding_size", "did you mean --model.network.embedding_size?"),
    (f"{FIT} --model.loss.margn=3", "--model.loss.margn", "did you mean --model.loss.margin?"),
    # lifted fit: configuration files
    (f"{FIT} --config=none.yaml", "--config none.yaml", "no such file"),
    (f"{FIT} --config=photos", "--config photos", "give a YAML file"),
    (f"{FIT} --config=broken.yaml", "--config broken.yaml", "line 1", "mend it"),
    (f"{FIT} --config=list.yaml", "--config list.yaml", "holds no settings"),
    (f"{FIT} --config=twice.yaml", "--config twice.yaml", "data is there twice", "line 2"),
    (f"{FIT} --config=nameless.yaml", "--model.loss: Not a valid subclass", "'class_paht'", "class_path"),
    (f"{FIT} --config=binary.yaml", "--config binary.yaml", "is no YAML"),
    (f"{FIT} --config=/dev/zero", "--config /dev/zero", "longer than 10,000,000 characters"),
    (f"{FIT} --data.neighbours=0.5", "--data.neighbours", "did you mean --data.sampler.neighbours?"),
    (f"{FIT} --config=old.yaml", "no option --sampling", "did you mean --data.sampler?"),
    (f"{FIT} --data.sampler=PositivPairs", "--data.sampler=PositivPairs", "did you mean PositivePairs?"),
    (f"{FIT} --data.sampler=torch.nn.Linear", "torch.nn.Linear", "is no GlobalBatchSampler"),
    (f"{FIT} --config=misspelt.yaml", "batch_sise", "did you mean --data.batch_size?"),
    # lifted fit: classes
    (f"{FIT} --model.loss=LiftedStructreLoss", "LiftedStructreLoss", "did you mean LiftedStructureLoss?"),
    (f"{FIT} --model.loss=Nonsense", "Nonsense", "choose ContrastiveLoss, ", "LiftedStructureLoss, TripletLoss"),
    (f"{FIT} --model.loss=torch.nn.Nope", "torch.nn.Nope", "cannot be imported", "MODULE.CLASS"),
    (f"{FIT} --model.optimizer=torch.optim.SGDD", "torch.optim.SGDD: cannot be", "did you mean SGD?"),
    (f"{FIT} --model.optimizer=torch.nn.Linear", "--model.optimizer=torch.nn.Linear", "is no Optimizer"),
    (f"{FIT} --model.optimizer.lrr=1", "no option --model.optimizer.lrr", "--model.optimizer.lr?"),
    (f"{FIT} --trainer.callbacks=nope.Nope", "nope.Nope", "No module named 'nope')", "MODULE.CLASS"),
    (f"{FIT} --model=nope.Thing", "nope.Thing", "No module named", "MODULE.CLASS"),
    (f"{FIT} --model=pathlib.Path", "pathlib.Path", "EmbeddingModule"),
    (f"{FIT} --config moved.yaml", "=lifted_lightning.schedules.WarmupCosine: cannot be", "did you mean WarmupCosine?"),
    (f"{FIT} --diagnostics.x=1", "no option --diagnostics.x; see --help"),
    (f"{FIT} --model.loss=", "--model.loss=: cannot be imported (no such class)", "choose ContrastiveLoss"),
    (f"{FIT} --data.sampler=ReleasedPairs --data.sampler.neighbours=1", "class chosen, but of PositivePairs; leave"),
    (f"{FIT} --model.loss=ContrastiveLoss --model.loss.mining=hard", "mining of the class", "of TripletLoss; leave"),
    # lifted fit: values of the wrong kind
    (f"{FIT} --seed_everything=4294967296", "--seed_everything", "v<4294967296"),
    (f"{FIT} --data.batch_size=many", "--data.batch_size", "int", "many"),
    (f"{FIT} --model.network.width=null", "--model.network.width", "int", "None"),
    (f"{FIT} --trainer.precision=8", "--trainer.precision", "64, 32, 16", "value: 8"),
    # lifted fit: values out of range
    (f"{FIT} --data.validation_share=1.5", "validation_share 1.5", "in [0, 1)"),
    (f"{FIT} --data.validation_share=0.2 --data.folds=4 --data.fold=0", "validation_share 0.2", "data.folds", "null"),
    (f"{FIT} --data.folds=4", "data.folds 4, data.fold None", "which of them validates"),
    (f"{FIT} --tuning_trials=0", "--tuning_trials", "v>0"),
    (f"{FIT} --data.size=[9]", "--data.size", "2 elements"),
    (
        f"{FIT} --model.loss=ContrastiveLoss --model.loss.pairs=consecutive --model.loss.average=all",
        *("consecutive", "ReleasedPairs"),
    ),
    (f"{FIT} --data.sampler.neighbours=.nan", "neighbours nan", "between 0 and 1"),
    (f"{FIT} --model.optimizer.lr=-1", "model.optimizer", "learning rate: -1.0", "other settings"),
    (f"{FIT} --model.augment=CropMirror --model.augment.size=99", "size 99x99", "40x40", "lower it"),
    (f"{FIT} --data.channels=3", "3x40x40", "make data.channels", "agree"),
    (f"{FIT} --evaluation.ks=[0]", "evaluation.ks [0]", "positive numbers"),
    (f"{FIT} --evaluation.metrics+=torch.nn.Linear", "--evaluation.metrics=torch.nn.Linear", "is no EvaluationMetric"),
    (f"{FIT} --confusions.pairs=0", "confusions.pairs 0", "at least 1"),
    (f"{FIT} --tsne.every_n=-1", "every_n -1", "0 for no pictures"),
    (f"{FIT} --last_checkpoint.every_n_steps=0", "last_checkpoint.every_n_steps 0", "at least 1"),
    (f"{FIT} --best_checkpoint.mode=up", "mode", "min, max", "up"),
    (f"{FIT} --best_checkpoint.monitor=validation/map@k", "validation/map@k", "did you mean validation/map@r?"),
    (f"{FIT} --trainer.max_steps=-5", "--trainer.max_steps=-5", "at least -1"),
    (f"{FIT} --trainer.max_steps=0", "--trainer.max_steps=0", "another number"),
    (f"{FIT} --trainer.check_val_every_n_epoch=0", "--trainer.check_val_every_n_epoch=0", "another number"),
    (f"{FIT} --trainer.gradient_clip_val=-1", "--trainer.gradient_clip_val=-1", "at least 0"),
    (f"{FIT} --trainer.gradient_clip_val=.nan", "--trainer.gradient_clip_val=nan", "finite"),
    (f"{FIT} --model.optimizer.lr=.nan", "--model.optimizer.init_args.lr=nan", "finite"),
    (f"{FIT} --model.optimizer.betas=[0.9,.inf]", "--model.optimizer.init_args.betas", "finite"),
    (f"{FIT} --trainer.accelerator=warp", "'warp'", "Available names are: auto"),
    (f"{FIT} --trainer.strategy=nope", "'nope'", "ddp"),
    (f"{FIT} --trainer.limit_train_batches=0.5", "limit_train_batches", "set data.batches_per_epoch"),
    # lifted fit: where files are, or are to go
    (f"{FIT} --runs_dir=note.txt", "--runs_dir: note.txt", "give another"),
    (f"{FIT} --name=..", "--name ..", "is no folder's name"),
    (f"{FIT} --name=../mine", "--name ../mine", "without slashes"),
    (f"{FIT} --name='a\tb'", "--name a\ufffdb", "is no folder's name"),
    (f"{FIT} --data.cache_dir=note.txt", "pixel cache note.txt", "set another cache_dir"),
    (f"{FIT} --ckpt_path=nope.ckpt", "nope.ckpt", "no such file", "last or best"),
    (f"{FIT} --ckpt_path=last", "last", "no such checkpoint", "--config RUN/config.yaml"),
    (f"{FIT} --ckpt_path=note.txt", "note.txt", "is no checkpoint"),
    (f"{FIT} --ckpt_path=best.ckpt", "best.ckpt", "another architecture", "give the run's config.yaml"),
    (f"{FIT} --ckpt_path=list.ckpt", "list.ckpt: holds no checkpoint of a run"),
    (f"{WEIGHTS} --model.network.weights_file=gone.pth", "gone.pth", "no such file"),
    (f"{FIT} --model.network=EmbeddingNetwork --model.network.trunk=resnt50", "resnt50", "resnet50"),
    (
        f"{FIT} --model.network=EmbeddingNetwork --model.network.pooling=Gem",
        "--model.network.pooling=Gem",
        "did you mean GeM?",
    ),
    (f"{VIT} --model.network.pooling=GeM --model.network.pooling.p=0", "GeM p=0", "above 0"),
    (f"{VIT} --model.augment.size=24", "patches of 16x16", "24x24", "--model.augment.size=16 or 32"),
    # lifted fit: data
    (f"{FIT} --data.dataset=Omniglot --data.root=/nowhere", "/nowhere", "lifted data prepare omniglot"),
    (f"{FOLDER}=elsewhere", "elsewhere", "no such folder", "give a folder"),
    (f"{FOLDER}=single", "single: 2 classes have a single image", "b, d; add images", "single_images=leave_out"),
    (f"{FOLDER}=damaged", "broken.png", "skip_broken=true"),
    (f"{FIT} --data.dataset.test_share=2", "test_share 2.0", "between 0 and 1"),
    (f"{FIT} --data.batch_size=7", "batch_size 7", "6 or 8"),
    (f"{FIT} --data.batch_size=2", "batch_size 2", "is one class", "raise it to 4"),
    (f"{TABLE}=none.csv", "none.csv", "no such file", "path, label, split"),
    (f"{TABLE}=typo.csv", "typo.csv", "line 2", "'trian'", "train, val, test, query"),
    (f"{TABLE}=gone.csv", "6 of 6 listed images are missing", "none/0.png"),
    # the other commands of Lightning
    ("validate --config base.yaml --data.validation_share=0", "validation_share 0", "use lifted test"),
    (f"{FIT} --trainer.limit_val_batches=0 --test=false", "limit_val_batches 0", "leave out --test false"),
    ("test --config base.yaml --modle.loss=x", "--modle.loss", "did you mean --model.loss?"),
    ("test --config base.yaml --ckpt_path=best.ckpt", "best.ckpt", "give the run's config.yaml"),
    ("predict --config base.yaml --ckpt_path=best", "--ckpt_path best", "--config RUN/config.yaml"),
    ("init photos", "photos", "give the name of a new folder"),
    # lifted data
    ("data verify cup200", "'cup200'", "did you mean cub200?"),
    ("data verify omniglot", "Omniglot not found", "run `lifted data prepare omniglot`"),
    ("data verify blank", "blank: has no class folders", "a folder of its own"),
    ("data verify typo.csv", "typo.csv", "'trian'", "give one of"),
    ("data prepare xyz", "'xyz'", "choose cars196, cub200, glyphs, inshop, omniglot, sop"),
    ("data prepare sop", "Stanford_Online_Products.zip is not there: get"),
    ("data prepare cars196", "cars196/car_ims.tgz is not there: its site is gone"),
    ("data prepare inshop", "put list_eval_partition.txt and the unpacked img/ into inshop/"),
    ("data list --rot x", "--rot", "did you mean --root?"),
    # lifted sweep
    ("check", "nothing to check", "give --loss, --network"),
    ("check --loss=TripletLos", "--loss=TripletLos", "did you mean TripletLoss?"),
    ("check --loss=TripletLoss --loss.margn=1", "no option --loss.margn", "did you mean --loss.margin?"),
    ("check --loss=TripletLoss --loss.margin=-1", "margin=-1.0", "give a finite distance"),
    ("sweep none.yaml", "none.yaml: no such file"),
    ("sweep broken.yaml", "broken.yaml", "is no YAML"),
    ("sweep list.yaml", "list.yaml", "needs method and parameters"),
    ("sweep unknown.yaml", "unknown.yaml", "margni", "did you mean --model.loss.margin?"),
    ("sweep empty_grid.yaml", "empty_grid.yaml", "values: give a list of at least one"),
    ("sweep metric.yaml", "metric.yaml", "validation/map@k: no run logs it", "validation/map@r"),
    ("sweep endless.yaml", "endless.yaml", "run_cap", "say how many trials"),
    ("sweep step.yaml", "step.yaml", "q 0: give a step above 0"),
    ("sweep no_base.yaml", "nowhere.yaml: no such file", "relative to here"),
    ("sweep right.yaml --runs_dir note.txt", "--runs_dir note.txt: ", "note.txt is no folder that can be", "another"),
    ("sweep metric.yaml --retries -1", "--retries", "at least 0"),
    ("sweep metric.yaml --gpu-per-trial 1", "--gpu-per-trial", "did you mean --gpus-per-trial?"),
    # lifted report
    ("report nowhere", "nowhere: no such folder", "give run folders"),
    ("report ''", "an argument is empty", "not set"),
    ("report photos", "photos: no run below it (no result.json)", "give run folders"),
    ("report torn", "torn/run/result.json: is not a run's result", "remove it and run again"),
    ("report foreign", "foreign/run/result.json: is not a run's result", "remove it and run again"),
    # lifted dashboard
    ("dashboard --project p", "nobody is logged in", "wandb login", "--dry-run"),
    # lifted embed
    ("embed", "IMAGES, --ckpt", "see lifted embed --help"),
    ("embed photos --ckpt gone.ckpt", "gone.ckpt", "no such checkpoint", "give a file"),
    ("embed photos --ckpt note.txt", "note.txt: is no checkpoint"),
    (f"{EMBED} --batch 3", "--batch", "see lifted embed --help"),
    ("embed gone --ckpt best.ckpt", "gone: no such file or folder"),
    ("embed blank --ckpt best.ckpt", "blank: holds no images", ".jpg"),
    ("embed empty.jpg --ckpt best.ckpt", "none of 1 images", "empty.jpg", "empty"),
    (f"{EMBED} --out no/i.npz", "--out no/i.npz: cannot be written (No such file", "give another"),
    (f"{EMBED} --out photos", "--out photos: cannot be written (it is no file)"),
    (f"{EMBED} --out /proc/i.npz", "--out /proc/i.npz: cannot be written (No such file", "give another"),
    (f"{EMBED} --out /dev/null", "--out /dev/null: cannot be written (it is no file)"),
    ("embed list.csv --ckpt best.ckpt", "list.csv: is neither an image", "list of paths", "UTF-8"),
    (f"{EMBED} --device meta", "device meta", "use auto or cpu"),
    ("embed photos --ckpt strange.ckpt", "strange.ckpt: is not a checkpoint of lifted fit"),
    # lifted search
    ("search photos/0/0.png --index gone.npz", "gone.npz: no such index", "lifted embed"),
    ("search photos/0/0.png --index photos/0/0.png", "0.png: is no index", "make it again"),
    (f"{SEARCH} --k -3", "--k -3", "from 1 to 2"),
    (SEARCH, "moved.ckpt: no such checkpoint", "say where it is now with --ckpt"),
    (f"{SEARCH} --ckpt best.ckpt", "best.ckpt: is not the checkpoint", "embed the images again"),
    (f"{SEARCH} --gallery no/g.png", "--gallery no/g.png: cannot be written (No such file"),
]


def add_images(folder: str, counts: dict[str, int]) -> None:
    """Grey pictures in class folders."""
    for name, count in counts.items():
        Path(folder, name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, name, f"{number}.png"))


def write_sweeps() -> None:
    """A sweep file that is right but for one thing."""
    right = {
        "method": "grid",
        "metric": {"name": "validation/map@r", "goal": "maximize"},
        "parameters": {"seed_everything": {"values": [0]}},
        "command": ["lifted", "fit", "--config", "base.yaml", "${args}"],
    }
    for name, wrong in {
        "unknown": {"parameters": {"model.loss.margni": {"values": [1]}}},
        "empty_grid": {"parameters": {"seed_everything": {"values": []}}},
        "metric": {"metric": {"name": "validation/map@k", "goal": "maximize"}},
        "endless": {"method": "random"},
        "step": {"method": "random", "parameters": {"seed_everything": {"min": 0, "max": 9, "q": 0}}},
        "right": {},
        "no_base": {"parameters": {"config": {"values": ["nowhere.yaml"]}}},
    }.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(right | wrong))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that wrong inputs name; no command may leave anything in it."""
    folder = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())
        data = {
            "dataset": {"class_path": "ImageFolder", "init_args": {"path": "photos"}},
            "sampler": {"samples_per_class": 2},
        }
        config["data"] |= data | {"batch_size": 4}
        Path("base.yaml").write_text(yaml.safe_dump(config))
        for name, text in {
            "note.txt": "no checkpoint, no index, no weights",
            "empty.jpg": "",
            "broken.yaml": "data: [1",
            "list.yaml": "- 1\n",
            "twice.yaml": "data: {size: 40}\ndata: {channels: 1}\n",
            "nameless.yaml": "model: {loss: {class_paht: TripletLoss, init_args: {}}}",
            "misspelt.yaml": "data: {batch_sise: 3}\n",
            "old.yaml": "data: {sampling: released}\n",
            "moved.yaml": "model: {scheduler: {class_path: lifted_lightning.schedules.WarmupCosine}}",
            "typo.csv": "path,label,split\na.png,1,trian\n",
            "gone.csv": "path,label,split\n"
            + "".join(f"none/{i}.png,{i // 2},{'train' if i < 4 else 'test'}\n" for i in range(6)),
        }.items():
            Path(name).write_text(text)
        for name in ("binary.yaml", "list.csv"):
            Path(name).write_bytes(b"a\n\xff\xfe\x00")
        Path("blank").mkdir()
        for name, text in {"torn": "{", "foreign": "{}"}.items():
            Path(name, "run").mkdir(parents=True)
            Path(name, "run", "result.json").write_text(text)
        add_images("photos", dict.fromkeys("012345", 4))
        add_images("single", {"a": 2, "b": 1, "c": 2, "d": 1})
        add_images("damaged", dict.fromkeys("abcdef", 4))
        Path("damaged/a/broken.png").write_text("no image")
        save_checkpoint(Path("best.ckpt"))
        torch.save([1], "list.ckpt")
        torch.save(torch.load("best.ckpt") | {"lifted_config": "data: 3"}, "strange.ckpt")
        Embeddings(
            np.zeros((3, 5), np.float32), np.array(["photos/0/0.png", "x.png", "y.png"]), np.zeros(3, np.int64),
            np.array(["a"]), str(folder), "moved.ckpt", "12ab", 24, "pad", 1, "euclidean",
        ).save(Path("index.npz"))  # fmt: skip
        write_sweeps()
        yield folder


@pytest.fixture
def _alone(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that folder, without an account of W&B, and where nothing is trained should a mistake pass."""
    monkeypatch.chdir(folder)
    for variable in [v for v in os.environ if v.startswith("WANDB_")] + ["LIFTED_DATA_DIR"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LIFTED_DEBUG", "")  # which --debug sets
    home = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(home / "pixels"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(EmbeddingModule, "training_step", _trains)


def _trains(*args: object) -> None:
    raise AssertionError("the mistake was not found before training")


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of all that is in a folder."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def check(command: str, words: tuple[str, ...], code: object, stderr: str) -> None:
    """One line that names the thing and the remedy; bars of progress are no lines."""
    said = [line for line in stderr.splitlines() if not line.startswith(("decoding ", "warning: "))]
    assert code == 2, stderr
    assert len(said) == 1, stderr
    assert said[0].startswith(f"lifted {command.split()[0]}: " if " " in said[0].split(":")[0] else "lifted: ")
    assert all(word in said[0] for word in words), said[0]
    assert "Traceback" not in stderr


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(("command", "words"), [(w[0], w[1:]) for w in WRONG], ids=[w[0][:80] for w in WRONG])
def test_a_wrong_input_is_one_line_with_the_remedy(
    command: str,
    words: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(folder)
    arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", ["lifted", *arguments])
    code = main(arguments)
    printed = capsys.readouterr()
    check(command, words, code, printed.err)
    assert printed.out == ""
    assert contents(folder) == before, "nothing is half-written"


def test_each_command_has_some() -> None:
    assert {case[0].split()[0] for case in WRONG} >= {*TRAINER, *OWN_COMMANDS}


@pytest.mark.usefixtures("_alone")
def test_wandbs_mode_is_looked_at_before_a_folder_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    before = contents(folder)
    for command in (FIT, "dashboard --project p"):
        monkeypatch.setattr(sys, "argv", ["lifted", *command.split()])
        code = main(command.split())
        check(command, ("WANDB_MODE=ofline", "unset it"), code, capsys.readouterr().err)
    assert contents(folder) == before


@pytest.mark.usefixtures("_alone")
def test_as_a_process() -> None:
    command = [sys.executable, "-m", "lifted_lightning.cli", "embed", "gone", "--ckpt", "best.ckpt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check("embed gone", ("gone: no such file or folder",), done.returncode, done.stderr)
    assert done.stdout == ""


@pytest.mark.usefixtures("_alone")
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lifted_lightning.errors import UserError

    command = "data verify cup200"
    monkeypatch.setattr(sys, "argv", ["lifted", *command.split()])
    with pytest.raises(UserError) as caught:
        main([*command.split(), "--debug"])
    assert len(caught.traceback) > 3
    assert capsys.readouterr().err == ""
