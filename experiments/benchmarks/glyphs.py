"""Short studies on Glyphs, judged on validation classes: do difficult neighbours help, and does the triplet loss train?

    python experiments/benchmarks/glyphs.py neighbours
    python experiments/benchmarks/glyphs.py triplet

Each run is `lifted fit` on the quickstart's configuration in a process of its own, on one thread; `--jobs` run at once.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

QUICKSTART = Path(__file__).parents[1] / "quickstart.yaml"
LEAN = [
    "--evaluation.clustering=none",
    "--evaluation.baseline=false",
    "--tsne.every_n=99",
    "--gallery.every_n=99",
]
SMALL = "--model.network.width=16"
TRIPLET = ["--model.loss=TripletLoss", SMALL]
NEIGHBOURS = {
    f"{loss}, neighbours {share}": [
        f"--model.loss={loss}",
        f"--data.sampler.neighbours={share}",
        "--trainer.max_steps=500",
        SMALL,
    ]
    for loss in ("LiftedStructureLoss", "TripletLoss")
    for share in (0, 0.5)
}
SHORT = ["--trainer.max_steps=300", "--data.sampler.neighbours=0"]
TRIPLETS = {
    "untrained": ["--trainer.max_steps=1", "--model.optimizer.lr=0", "--data.batches_per_epoch=1", *TRIPLET],
    "plain distances, margin 0.2": [*SHORT, *TRIPLET, "--model.loss.margin=0.2"],
    "margin 1": [*SHORT, *TRIPLET, "--model.loss.margin=1"],
    "squared, margin 1, over active triplets": [
        *SHORT,
        *TRIPLET,
        "--model.loss.margin=1",
        "--model.loss.squared=true",
    ],
    "the paper's: squared, margin 1, over all": [
        *(*SHORT, *TRIPLET, "--model.loss.margin=1", "--model.loss.squared=true", "--model.loss.average=all")
    ],
}
STUDIES = {"neighbours": NEIGHBOURS, "triplet": TRIPLETS}


def validation(folder: Path, name: str, options: list[str], seed: int) -> dict[str, float]:
    """The validation metrics of one run's last checkpoint; a run that is there already is not repeated."""
    run = folder / "runs" / "glyphs" / name
    if not (run / "result.json").exists():
        command = [
            sys.executable,
            "-m",
            "lifted_lightning.cli",
            "fit",
            "--config",
            str(QUICKSTART),
            *LEAN,
            *options,
        ]
        command += ["--experiment=glyphs", f"--name={name}", f"--seed_everything={seed}"]
        command += [f"--trainer.check_val_every_n_epoch={steps_in(options) // 100 or 1}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-500:]}")
    return json.loads((run / "result.json").read_text())["validation"]


def steps_in(options: list[str]) -> int:
    return int(next(o for o in options if o.startswith("--trainer.max_steps=")).split("=")[1])


def main() -> None:
    """Run a study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/studies"), help="where runs are kept, and found again"
    )
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (title, f"{options.study}-{number}-seed{seed}", arguments, seed)
        for number, (title, arguments) in enumerate(STUDIES[options.study].items())
        for seed in range(options.seeds)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda job: validation(folder, *job[1:]), jobs))
    print(f"| {options.study} | validation Recall@1, each seed | mean MAP@R ± standard deviation |\n|---|---|---|")
    for title in STUDIES[options.study]:
        mine = [result for job, result in zip(jobs, results, strict=True) if job[0] == title]
        scores = [result["map@r"] for result in mine]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        recalls = ", ".join(f"{result['recall@1']:.4f}" for result in mine)
        print(f"| {title} | {recalls} | {statistics.mean(scores):.4f} ± {spread:.4f} |")


if __name__ == "__main__":
    main()
