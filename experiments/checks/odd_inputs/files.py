"""Rules for files that are read: checkpoints, indices, images, folders and tables of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments.checks.odd_inputs.right import (
    CHECKPOINT,
    FIT,
    REFUSED,
    RUNS,
    Input,
    draw_images,
    rule,
    written,
)


def damaged(path: Path) -> Iterator[tuple[str, bytes]]:
    """Other bytes in the place of a file's."""
    content = path.read_bytes()
    for part in (0, 1, 4, len(content) // 4, len(content) // 2, len(content) - 1):
        yield f"cut{part}", content[:part]
    yield "zeros", bytes(len(content))
    yield "text", b"some text\n"
    yield "head", b"\0" * 64 + content[64:]


NEEDED = (
    "state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch", "pytorch-lightning_version"
)  # fmt: skip


@rule("a checkpoint: damaged, of another kind, without a part")
def _() -> Iterator[Input]:
    right = torch.load(CHECKPOINT, weights_only=True)
    bad = [written(f"ckpt/{name}.ckpt", content) for name, content in damaged(Path(CHECKPOINT))]
    for name, content in {
        "list": [1], "number": 1, "empty": {}, "weights": right["state_dict"], "none": right | {"state_dict": None},
        "numbers": right | {"state_dict": {"a": 1}}, "extra": right | {"state_dict": right["state_dict"] | {"x": 1}},
        "fewer": right | {"state_dict": dict(list(right["state_dict"].items())[1:])},
        "scalars": right | {"state_dict": {k: torch.tensor(0.0) for k in right["state_dict"]}},
    }.items():  # fmt: skip
        torch.save(content, f"ckpt/{name}.ckpt")
        bad.append(f"ckpt/{name}.ckpt")
    commands = [(*FIT, "--trainer.max_steps=4"), ("test", FIT[1]), ("validate", FIT[1]), ("predict", FIT[1])]
    for path in [*bad, "ckpt", "nowhere.ckpt", "/dev/null", "last", "best", "a\nb"]:
        for command in commands:
            yield Input((*command, f"--ckpt_path={path}"), REFUSED, (path[:1],))
        yield Input(("embed", "photos", f"--ckpt={path}", "--out=x.npz"), REFUSED)
    for key in right:  # of a run that is to go on; what an evaluation needs are weights alone
        torch.save({k: v for k, v in right.items() if k != key}, f"ckpt/no-{key}.ckpt")
        needed = key in NEEDED
        refused = REFUSED if needed else RUNS
        yield Input((*commands[0], f"--ckpt_path=ckpt/no-{key}.ckpt"), refused)
        for wrong in (3.5, {"a": "word"}):
            if needed and not (key == "loops" and isinstance(wrong, dict)):
                torch.save(right | {key: wrong}, f"ckpt/{key}-{wrong}.ckpt")
                yield Input((*commands[0], f"--ckpt_path=ckpt/{key}-{wrong}.ckpt"), REFUSED)
    for name, text in {
        "word": "word",
        "list": "- 1",
        "none": "",
        "broken": "[",
        "part": "model: {}",
        "data": "data: 3",
    }.items():
        torch.save(right | {"lifted_config": text}, f"ckpt/config-{name}.ckpt")
        yield Input(("embed", "photos", f"--ckpt=ckpt/config-{name}.ckpt", "--out=x.npz"), REFUSED, (name,))


@rule("going on with another setting")
def _() -> Iterator[Input]:
    line = ("fit", "--config=right/tiny/run/config.yaml", f"--ckpt_path={CHECKPOINT}", "--trainer.max_steps=4")
    for option in (
        "seed_everything=1", "data.batch_size=12", "data.batches_per_epoch=3", "data.sampler.neighbours=0",
        "data.channels=3", "data.sampler=ReleasedPairs", "data.validation_share=0", "data.split_seed=1",
        "data.dataset.test_share=0.4", "model.network.embedding_size=8", "model.network.width=4",
        "model.network.dropout=0.1", "model.optimizer=SGD", "model.loss=TripletLoss", "trainer.max_steps=2",
        "trainer.max_steps=1", "model.optimizer.lr=.nan",
    ):  # fmt: skip
        yield Input((*line, f"--{option}"), REFUSED)
    for option in (
        "model.optimizer.lr=1e-4", "model.optimizer.weight_decay=0.1", "model.scheduler.warmup=0.3",
        "model.scheduler=null", "model.loss.margin=0.5", "model.head_lr_factor=3", "model.augment.mirror=true",
        "data.size=18", "data.workers=1", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1",
        "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1", "evaluation.ks=[1]", "test=false",
        "best_checkpoint.monitor=validation/recall@1", "last_checkpoint.every_n_steps=1", "trainer.max_steps=-1",
        "model.scheduler=StepLR --model.scheduler.step_size=1",
    ):  # fmt: skip
        more = ("--trainer.max_epochs=2",) if option.endswith("=-1") else ()
        yield Input((*line, *f"--{option}".split(), *more), RUNS)


@rule("an index: damaged, without an array, of other arrays")
def _() -> Iterator[Input]:
    with np.load("index.npz") as file:
        right = dict(file)
    bad = [written(f"index/{name}.npz", content) for name, content in damaged(Path("index.npz"))]
    for key, value in right.items():
        wrong = {"without": None, "objects": np.array([None]), "deeper": value[None],
            "empty": value[:0] if value.ndim else None,
                 "other": np.zeros(3) if value.dtype.kind == "U" else np.array("word")}  # fmt: skip
        for name, array in wrong.items():
            if (name == "empty" and array is None) or (key, name) == ("size", "deeper"):  # that may be of two sides
                continue
            arrays = {k: v for k, v in right.items() if k != key} | ({} if array is None else {key: array})
            np.savez(path := f"index/{key}-{name}.npz", **arrays)
            bad.append(path)
    for name, more in {
        "nan": {"embeddings": right["embeddings"] * np.nan}, "labels": {"labels": right["labels"] + 100},
        "distance": {"distance": np.array("far")}, "narrow": {"embeddings": right["embeddings"][:, :2]},
        "size": {"size": np.array(-3)}, "resize": {"resize": np.array("fold")}, "channels": {"channels": np.array(2)},
        "moved": {"checkpoint": np.array("gone.ckpt")}, "foreign": {"checkpoint_sha256": np.array("ab")},
    }.items():  # fmt: skip
        np.savez(f"index/{name}.npz", **right | more)
        if name in ("size", "resize", "channels"):  # the checkpoint says these
            yield Input(("search", "photos/a/0.png", f"--index=index/{name}.npz", "--k=3"), RUNS)
        else:
            bad.append(f"index/{name}.npz")
    for path in [*bad, "photos", "nowhere.npz", "/dev/null", CHECKPOINT]:
        yield Input(("search", "photos/a/0.png", f"--index={path}", "--k=3"), REFUSED)


@rule("images to embed and to search with")
def _() -> Iterator[Input]:
    picture = Image.open("photos/a/0.png").resize((40, 30))
    whole = Path("photos/a/0.png").read_bytes()
    odd = Path("odd images")
    odd.mkdir()
    for name, mode in {
        "cmyk.jpg": "CMYK",
        "p.png": "P",
        "la.png": "LA",
        "i16.png": "I;16",
        "one.png": "1",
        "rgba.png": "RGBA",
    }.items():
        picture.convert("RGB").convert(mode).save(odd / name) if mode != "I;16" else picture.convert("I").convert(
            mode
        ).save(odd / name)
    picture.resize((1, 1)).save(odd / "pixel.png")
    picture.resize((900, 1)).save(odd / "line.png")
    picture.save(odd / "a\nb ü'\".png")
    picture.save(odd / "UPPER.PNG")
    picture.save(odd / "ends.gif", save_all=True, append_images=[picture] * 2)
    for path in [*sorted(map(str, odd.iterdir())), "odd images"]:
        yield Input(("embed", path, f"--ckpt={CHECKPOINT}", "--out=x.npz"), RUNS)
        if path != "odd images":
            yield Input(("search", path, "--index=index.npz"), RUNS)
    bad = [written(f"bad images/{name}.png", content) for name, content in {
        "empty": b"", "text": b"text", "cut": whole[: len(whole) // 2], "head": whole[:40], "zeros": bytes(999),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "magic": b"\x89PNG\r\n\x1a\n",
    }.items()]  # fmt: skip
    os.mkfifo("bad images/pipe.png")
    for path in [*bad, "bad images/pipe.png", "nowhere.png", "/dev/zero", ""]:
        yield Input(("embed", path, f"--ckpt={CHECKPOINT}", "--out=x.npz"), REFUSED)
        yield Input(("search", path, "--index=index.npz"), REFUSED)
    for name, text, code in (("list", "photos/a/0.png\n\nphotos/b/0.png\n", RUNS), ("crlf", "photos/a/0.png\r\n", RUNS),
                             ("gone", "gone.png\n", REFUSED), ("blank", "\n\n", REFUSED), ("long",
                             "x" * 9999, REFUSED)):  # fmt: skip
        yield Input(("embed", written(f"{name}.txt", text), f"--ckpt={CHECKPOINT}", "--out=x.npz"), code)


@rule("a folder of images")
def _() -> Iterator[Input]:
    four = dict.fromkeys("abcdefgh", 4)
    for name, classes, code in (
        ("one-class", {"a": 4}, REFUSED), ("two", {"a": 4, "b": 4}, REFUSED), ("single", four | {"a": 1}, REFUSED),
        ("hollow", four | {"z": 0}, REFUSED), ("unicode", {f"{c} ü'": n for c, n in four.items()}, RUNS),
        ("control", {f"{c}\n": n for c, n in four.items()}, REFUSED),
        ("dots", {f"{c}.d": n for c, n in four.items()}, RUNS), ("numbers", {str(i): 4 for i in range(12)}, RUNS),
        ("formula", {f"={c}+1": 4 for c in four}, RUNS), ("few", {"a": 2, "b": 2, "c": 4, "d": 4}, REFUSED),
    ):  # fmt: skip
        draw_images(Path("folders", name), classes)
        yield Input((*FIT, f"--data.dataset.path=folders/{name}"), code)
    for name, file, code in (
        ("beside", "x.png", REFUSED), ("beside-text", "x.txt", RUNS), ("hidden", "a/.x.png", RUNS), ("text",
        "a/x.txt", REFUSED),
        ("nested", "a/x/0.png", REFUSED), ("thumbs", "a/Thumbs.db", RUNS), ("broken", "a/x.png", REFUSED),
    ):  # fmt: skip
        draw_images(Path("folders", name), four)
        written(f"folders/{name}/{file}", "text")
        yield Input((*FIT, f"--data.dataset.path=folders/{name}"), code)
    yield Input((*FIT, "--data.dataset.path=folders/broken", "--data.skip_broken=true"), RUNS)
    for path in ("nowhere", "tiny.yaml", "", "/dev/null", "a\0b", "forms"):
        yield Input((*FIT, f"--data.dataset.path={path}"), REFUSED)


@rule("a table of images")
def _() -> Iterator[Input]:
    lines = [f"photos/{c}/{i}.png,{c},{'train' if c < 'g' else 'test'}" for c in "abcdefghijkl" for i in range(4)]
    text = "path,label,split\n" + "\n".join(lines) + "\n"
    for name, content, code in (
        ("right", text, RUNS), ("bom", "\ufeff" + text, RUNS), ("crlf", text.replace("\n", "\r\n"), RUNS),
        ("semicolons", text.replace(",", ";"), RUNS), ("tabs", text.replace(",", "\t"), RUNS), ("open", text[:-1],
        RUNS),
        ("spaces", text.replace(",", " , "), RUNS), ("blank", text.replace("\n", "\n\n"), RUNS), ("more",
        "\n".join(f"{x},1" for x in text.split()), RUNS),
        ("quoted", text.replace(",a,", ',"a,b",'), RUNS), ("lines", text.replace(",a,", ',"a\nb",'), REFUSED),
        ("empty", "", REFUSED), ("header", "path,label,split\n",
        REFUSED),
        ("headless", "\n".join(lines), REFUSED), ("upper", text.replace("path", "PATH"), REFUSED), ("lack",
        text.replace(",split", ""), REFUSED),
        ("split", text.replace("test", "tset"), REFUSED), ("label", text.replace(",a,", ",,"), REFUSED), ("gone",
        text.replace("/a/0", "/a/9"), REFUSED),
        ("double", text.replace("/a/1", "/a/0"), REFUSED), ("both", text.replace(",g,test", ",a,test"), REFUSED),
        ("train", text.replace("test", "train"), REFUSED),
        ("single", text.replace(",a,", ",z,", 1), REFUSED), ("utf16", text.encode("utf-16"), REFUSED), ("latin",
        text.replace(",a,", ",é,").encode("latin-1"), REFUSED),
        ("nul", text.replace(",a,", ",\0,"), REFUSED), ("quote", text.replace(",a,", ',"a,', 1), REFUSED), ("binary",
        Path("index.npz").read_bytes(), REFUSED),
        ("ragged", text.replace(",a,", ",a,b,", 1), REFUSED), ("queries", text.replace("test", "query"), REFUSED),
        ("twice", text.replace("label", "label,label", 1), REFUSED),
    ):  # fmt: skip
        file = written(f"{name}.csv", content)
        yield Input((*FIT, "--data.dataset=TableFile", f"--data.dataset.path={file}"), code)
    yield Input((*FIT, "--data.dataset=TableFile", f"--data.dataset.path={written('text.parquet', text)}"), REFUSED)
