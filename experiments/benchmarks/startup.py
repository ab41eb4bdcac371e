"""Cold starts: the help of `lifted` and of `lifted fit` against importing Lightning alone, and one image embedded.

python experiments/benchmarks/startup.py
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = """
import time
marks = [("", time.perf_counter())]
def mark(name): marks.append((name, time.perf_counter()))
import numpy
mark("numpy")
import torch
mark("torch")
import lifted_lightning.inference.model
mark("the package")
{extra}
model = lifted_lightning.load({checkpoint!r}, "cpu")
mark("the checkpoint and its network")
model.embed({image!r})
mark("one image")
for (_, before), (name, at) in zip(marks, marks[1:]):
    print(f"{{name}}: {{at - before:.2f}} s")
"""


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def make_commands(lifted: str, folder: Path) -> dict[str, list[str]]:
    """The commands by name; the last two are compared."""
    from embed import SQUEEZENET, draw_photographs, save_checkpoint

    (image,) = draw_photographs(folder / "photos", 1, 224)
    networks = {
        "ConvNet": {"class_path": "lifted_lightning.training.networks.ConvNet", "init_args": {"channels": 3}},
        "SqueezeNet": SQUEEZENET,
    }
    commands = {
        "lifted --help": [lifted, "--help"],
        "lifted data --help": [lifted, "data", "--help"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
    }
    for name, network in networks.items():
        checkpoint, index = str(folder / f"{name}.ckpt"), str(folder / f"{name}.npz")
        save_checkpoint(Path(checkpoint), network)
        commands[f"lifted embed, one image, {name}"] = [
            lifted, "embed", str(image), "--ckpt", checkpoint, "--out", index, "--device", "cpu",
        ]  # fmt: skip
        extra = "import torchvision\nmark('torchvision')" if name == "SqueezeNet" else ""
        code = PHASES.format(extra=extra, checkpoint=checkpoint, image=str(image))
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        print(f"where the time of embedding goes, {name}: " + ", ".join(done.stdout.splitlines()))
    commands["lifted search, one image, ConvNet"] = [
        lifted, "search", str(folder / "copy.jpg"), "--index", str(folder / "ConvNet.npz"), "--device", "cpu",
    ]  # fmt: skip
    shutil.copy(image, folder / "copy.jpg")
    commands['python -c "import pytorch_lightning"'] = [sys.executable, "-c", "import pytorch_lightning"]
    commands["lifted fit --help"] = [lifted, "fit", "--help"]
    return commands


def main() -> None:
    """Time the commands in turn, and print medians and the ratio of the last two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    lifted = shutil.which("lifted") or sys.exit("lifted is not installed in this environment")
    with tempfile.TemporaryDirectory() as folder:
        commands = make_commands(lifted, Path(folder))
        for command in commands.values():
            seconds(command)  # files into the page cache
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    print("| command | median of", rounds, "|\n|---|---|")
    for name, values in times.items():
        print(f"| `{name}` | {statistics.median(values):.2f} s |")
    imported, helped = list(times.values())[-2:]
    ratio = statistics.median(b / a for a, b in zip(imported, helped, strict=True))
    print(f"\n`lifted fit --help` takes {ratio:.2f} times the bare import.")


if __name__ == "__main__":
    main()
