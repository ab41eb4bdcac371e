"""What a sweep adds to its trials, and whether it keeps the cores busy.

python experiments/benchmarks/sweep.py overhead   # a trial of a sweep against `lifted fit` by hand, in turns
python experiments/benchmarks/sweep.py busy       # experiments/sweeps/quick.yaml: CPU time used of what there is
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

LIFTED = [sys.executable, "-m", "lifted_lightning.cli"]
RUN = ["--config=experiments/quickstart.yaml", "--trainer.max_steps=50", "--test=false", "--tsne.every_n=0"]
SWEEP = """
method: grid
metric: {{name: validation/map@r, goal: maximize}}
parameters: {{seed_everything: {{values: {seeds}}}}}
command: [lifted, fit, {arguments}, "${{args}}"]
"""


def events(command: list[str]) -> list[tuple[float, str]]:
    """Run a command; its lines with the seconds at which each came."""
    found, began = [], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found.append((time.perf_counter() - began, line.strip()))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return found


def overhead(rounds: int) -> None:
    """Seconds from one trial's end to the next one's, one at a time with all cores, against runs by hand."""
    cores = str(os.cpu_count())
    os.environ["OMP_NUM_THREADS"] = cores
    by_hand, of_sweep = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "overhead.yaml"
        own = ["--experiment=by_hand", f"--runs_dir={folder}/runs"]
        subprocess.run([*LIFTED, "fit", *RUN, *own], check=True, capture_output=True)  # warm
        for number in range(rounds):
            began = time.perf_counter()
            subprocess.run([*LIFTED, "fit", *RUN, *own], check=True, capture_output=True)
            by_hand.append(time.perf_counter() - began)
            file.write_text(SWEEP.format(seeds=[2 * number, 2 * number + 1], arguments=", ".join(RUN)))
            lines = events([*LIFTED, "sweep", str(file), "--runs_dir", f"{folder}/runs", "--cpus-per-trial", cores])
            done = [at for at, line in lines if line.startswith("done")]
            of_sweep.append(done[1] - done[0])
    hand, swept = statistics.median(by_hand), statistics.median(of_sweep)
    print(f"by hand {hand:.2f} s, in a sweep {swept:.2f} s: {swept - hand:+.2f} s a trial ({rounds} rounds)")


def busy() -> None:
    """The share of CPU time in use from the first trial's start to the last one's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*LIFTED, "sweep", "experiments/sweeps/quick.yaml", "--runs_dir", folder]
        trials = int(re.findall(r"(\d+) missing", events([*command, "--dry-run"])[-1][1])[0])
        marks = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("started"):
                    marks.append((time.perf_counter(), psutil.cpu_times()))
        if len(marks) < trials:
            raise SystemExit(f"{len(marks)} of {trials} trials started")
    (first, before), (last, after) = marks[0], marks[-1]
    idle = (after.idle + after.iowait) - (before.idle + before.iowait)
    share = 1 - idle / ((last - first) * psutil.cpu_count())
    print(f"{trials} trials, {last - first:.0f} s from the first one's start to the last one's: {share:.1%} busy")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("measure", choices=["overhead", "busy"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    overhead(options.rounds) if options.measure == "overhead" else busy()
