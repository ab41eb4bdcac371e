"""`lifted report` on a thousand run folders, made up here: wall time of the whole command, start-up included.

python experiments/benchmarks/report.py [--runs 1000] [--rounds 3]
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOSSES = {
    "ContrastiveLoss": {"margin": 1.0, "pairs": "all"},
    "TripletLoss": {"margin": 0.2, "squared": False, "mining": "all", "average": "active"},
    "LiftedStructureLoss": {"margin": 1.0, "smooth": True},
}
SIZES, NEIGHBOURS, SEEDS = (64, 128, 256, 512), (0.0, 0.25, 0.5, 0.75), 5
KS = (1, 2, 4, 8)


def metrics(score: float) -> dict[str, float]:
    """Metrics that go together, for a Recall@1."""
    recall = {f"recall@{k}": 1 - (1 - score) * 0.66 ** math.log2(k) for k in KS}
    rest = {"r_precision": 0.6 * score, "map@r": 0.5 * score, "nmi": 0.6 + 0.3 * score, "ami": 0.8 * score}
    return recall | rest | {"f1": 0.7 * score}


def result(number: int) -> dict[str, object]:
    """The ``result.json`` of a run: losses x sizes x neighbours x seeds, then the same at other batch sizes."""
    rest, seed = divmod(number, SEEDS)
    rest, loss = divmod(rest, len(LOSSES))
    rest, size = divmod(rest, len(SIZES))
    batch, share = divmod(rest, len(NEIGHBOURS))
    name = list(LOSSES)[loss]
    score = 0.6 + 0.08 * loss + 0.02 * size + 0.01 * share + 0.002 * ((number * 7919) % 11)
    steps = range(100, 2001, 100)
    trainer = {f"setting_{i}": None for i in range(40)} | {"max_steps": 2000, "devices": 1}
    network = {
        "class_path": "lifted_lightning.training.networks.ConvNet",
        "init_args": {"embedding_size": SIZES[size]},
    }
    model = {
        "network": network,
        "loss": {"class_path": f"lifted_lightning.losses.{name}", "init_args": LOSSES[name]},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001 * (loss + 1)}},
    }
    data = {"size": 28, "sampler": {"init_args": {"neighbours": NEIGHBOURS[share]}}, "batch_size": 64 * (batch + 1)}
    row = {f"batch/{key}": 1.0 for key in ("norm_mean", "positive_distance", "negative_distance", "effective_rank")}
    history = [
        {"step": s, "seconds": s / 30, "validation/recall@1": score * (1 - math.exp(-s / 400)), **row}
        | {"validation/map@r": 0.5 * score * (1 - math.exp(-s / 400))}
        for s in steps
    ]
    return {
        "config": {"seed_everything": seed, "trainer": trainer, "model": model, "data": data, "name": f"t{number}"},
        "seed": seed, "dataset": "omniglot", "loss": name, "embedding_size": SIZES[size], "stage": "test",
        "steps": 2000, "selected_step": 2000, "validation": metrics(score), "test": metrics(score),
        "history": history, "baseline": metrics(0.3), "baseline_name": "raw pixels",
        "seconds": {"fit": 66.0, "test": 20.0}, "versions": {"torch": "2.11.0"}, "git": {"commit": "0" * 40},
    }  # fmt: skip


def main() -> None:
    """Make the folders, time the command, and print the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    lifted = shutil.which("lifted") or sys.exit("lifted is not installed in this environment")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            run = Path(folder) / f"sweep-{number // 200}" / f"trial-{number}"
            run.mkdir(parents=True)
            (run / "result.json").write_text(json.dumps(result(number), indent=2))
            (run / "config.yaml").write_text("")
        size = sum(path.stat().st_size for path in Path(folder).rglob("result.json"))
        times = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            command = [lifted, "report", folder, "--out", f"{folder}/report"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
    print(f"{options.runs} run folders, {size / 1e6:.1f} MB of result.json: median {statistics.median(times):.2f} s")
    print("of", ", ".join(f"{seconds:.2f}" for seconds in times))


if __name__ == "__main__":
    main()
