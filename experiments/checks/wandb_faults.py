"""Whether a run ends well, and its record is whole, whatever W&B's server does, and whenever.

python -m experiments.checks.wandb_faults                 # the whole table
python -m experiments.checks.wandb_faults --only "dies at test"

Each cell is a run of Glyphs in miniature whose server, the tests' stand-in, fails from a moment on. It says what is not
as it should be, or how much longer the run took than one whose server answers. As it should be: exit code 0, the result
there, no traceback; and that all that a run with a good server sends has either arrived, or arrives at a good server by
the `wandb sync` of which the run has told, or, where W&B's client has believed what it was answered, of its record.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lifted_lightning.runs.folder import RESULT
from tests.helpers.wandb_server import FAULTS, MOMENTS, Fault, StandIn, WandbRun

ROOT = Path(__file__).parents[2]
RUN = [
    "fit", "--config", "experiments/quickstart.yaml", "--trainer.max_steps=12", "--trainer.log_every_n_steps=3",
    "--data.batches_per_epoch=6", "--trainer.check_val_every_n_epoch=1", "--data.size=16", "--model.network.width=4",
    "--evaluation.clustering=none", "--tsne.points=60", "--gallery.neighbours=2", "--experiment=e", "--name=run",
]  # fmt: skip
LOST = "W&B's record is lost, as is told"  # where its own process dies of what it was answered
RIGHT = rf"({LOST}; )?[+-]\d+ s"
SLACK = 60.0  # seconds that a bad server may add


@dataclass
class Ended:
    """A run that has ended."""

    code: int
    seconds: float
    text: str
    server: StandIn
    folder: Path

    @property
    def result(self) -> bool:
        return (self.folder / RESULT).exists() and bool(json.loads((self.folder / RESULT).read_text())["test"])

    def sent(self) -> set[str]:
        """Names of all that has come of it: what the server has, or gets by the `wandb sync` that the run tells of."""
        (run,) = self.server.runs.values() or [WandbRun("")]
        if run.exit_code is None:
            run = self.synced()
        media = (re.sub(r"_\d+_\w+\.", ".", name) for name in run.files if name.startswith("media/"))
        return {*run.summary, *(name for row in run.history for name in row), *media}

    def synced(self) -> WandbRun:
        told = re.findall(r"wandb sync ([^`)\n]*/[^`)\n]*)", self.text)
        told = told or [f"--no-skip-online {self.folder}/wandb/*run-*"]  # its client takes any answer for a yes
        good = StandIn()
        command = f"{sys.executable} -m wandb sync {told[-1]}"
        subprocess.run(command, shell=True, cwd=ROOT, env=good.environment(self.folder), timeout=100)
        return next(iter(good.runs.values()), WandbRun(""))


def run(place: Path, fault: Fault | None = None, moment: str = "start", more: tuple[str, ...] = ()) -> Ended:
    """Run it, below a folder, with a server that fails from a moment on."""
    at_once, at_end = fault if moment == "start" else None, fault if moment == "end" else None
    server = StandIn(at_once, at_end)
    arguments = [*RUN, "--runs_dir", str(place), *more]
    if fault and not (at_once or at_end):
        own = "--trainer.callbacks"
        arguments += [f"{own}=tests.helpers.wandb_server.Turn", f"{own}.fault={FAULTS.index(fault)}",
                      f"{own}.moment={moment}"]  # fmt: skip
    environment = {"LIFTED_CACHE_DIR": str(place.parent / "cache")} | server.environment(place) | {"COLUMNS": "200"}
    del environment["WANDB_MODE"]  # a user who is logged in
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lifted_lightning.cli", *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
    )  # fmt: skip
    return Ended(done.returncode, time.monotonic() - start, done.stdout, server, place / "e" / "run")


def told(ended: Ended, good: Ended) -> str:
    """What a cell says."""
    wrong = []
    if ended.code:
        wrong.append(f"exit code {ended.code}")
    if not ended.result:
        wrong.append("no result")
    if "Traceback" in ended.text:
        wrong.append("a traceback")
    if missing := sorted(good.sent() - ended.sent()):
        wrong.append(LOST if "own process has died" in ended.text else f"not recorded: {', '.join(missing[:4])}")
    more = ended.seconds - good.seconds
    if more > SLACK:
        wrong.append("too long")
    return "; ".join([*wrong, f"{more:+.0f} s"])


def main() -> int:
    """Print a row of the table for each fault; the exit code says whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only cells whose name, as in the example, has this expression")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--show", action="store_true", help="what each run printed")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="wandb-faults-") as top:
        if "LIFTED_CACHE_DIR" not in os.environ:
            run(Path(top, "first"))  # draws the fonts
        good = run(Path(top, "good"))
        print(f"with a good server: {told(good, good)}, {good.seconds:.0f} s in all, {len(good.sent())} names sent")
        print(f"| the server | {' | '.join(MOMENTS)} |\n|:--|{':--|' * len(MOMENTS)}", flush=True)

        def cell(name: str) -> str:
            if not re.search(options.only, name):
                return "–"
            fault, moment = name.split(" at ")
            ended = run(Path(top, name.replace(" ", "-")), cast(Fault, fault), moment)
            print(f"{name}: {(cell := told(ended, good))}{ended.text if options.show else ''}", file=sys.stderr)
            return cell

        with ThreadPoolExecutor(options.jobs) as pool:
            for fault in FAULTS:
                cells = [*pool.map(cell, [f"{fault} at {moment}" for moment in MOMENTS])]
                wrong += sum(not re.fullmatch(f"–|{RIGHT}", told_of) for told_of in cells)
                print(f"| {fault} | {' | '.join(cells)} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
