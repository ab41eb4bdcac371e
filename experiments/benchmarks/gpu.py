"""What one GPU settles within minutes: whether everything runs there, and how fast.

    python experiments/benchmarks/gpu.py --out gpu_figures
    python experiments/benchmarks/gpu.py --parts losses evaluation
    python experiments/benchmarks/gpu.py --device cpu --tiny        # whether this script runs

Each part is a process of its own with a time limit: one that crashes or hangs costs itself alone. First those that ask
whether something runs, side by side, and `torch.compile` beside them, whose kernels are kept on disk; then those that
measure, one by one. Figures are printed as they come, and written after each part: `gpu.md` and `gpu.json` below --out.

- tests: `pytest -m gpu`
- fits: the quickstart by every precision, compiled, deterministic (twice, for the same digits), and by DDP on one rank
- training: with the lifted loss, from cached pixels, in bf16, against forward and backward of the bare network, in
  turns in one process; and where a step waits for the device
- evaluation: all retrieval metrics, SOP-shaped and CUB-shaped
- losses: forward and backward, beside three bare B×B×D float32 products and pytorch-metric-learning
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[2]
LIMITS = {"tests": 150, "fits": 180, "compile": 150, "training": 150, "evaluation": 40, "losses": 120}  # seconds
BESIDE = ("tests", "fits", "compile")  # ask whether it runs, and not how fast
PARTS = tuple(part for part in LIMITS if part != "compile")  # which goes with training


@dataclass
class Run:
    """What a part is told, and where its figures go."""

    part: str
    device: str
    tiny: bool
    work: Path  # a folder that the parts share

    def table(self, title: str, *columns: str) -> Callable[..., None]:
        """Begin a table; returns what adds a row to it, printed at once and kept as a line of JSON."""
        print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

        def row(*cells: Any) -> None:
            cells = tuple(None if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells)
            print(f"| {' | '.join(map(shown, cells))} |", flush=True)
            with open(self.work / f"{self.part}.jsonl", "a") as file:
                file.write(json.dumps({"table": title} | dict(zip(columns, cells, strict=True))) + "\n")

        return row


def shown(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell)


def tests(run: Run) -> None:
    """The tests that need a GPU; files without one are not even imported."""
    files = [str(file) for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--tb=short", "--durations=3", *files]
    sys.exit(subprocess.run([*command, "-n", "0" if run.tiny else "4"], cwd=ROOT).returncode)


FITS: dict[str, list[str]] = {
    "compiled": ["--model.compile=true"],  # takes longest
    "32-true": [],
    "bf16-mixed": ["--trainer.precision=bf16-mixed"],
    "16-mixed": ["--trainer.precision=16-mixed"],
    "deterministic": ["--trainer.deterministic=true"],
    "deterministic-again": ["--trainer.deterministic=true"],
    "ddp-of-one": ["--trainer.strategy=ddp"],
}
SMALL = ["--trainer.max_steps=2", "--data.batches_per_epoch=2", "--data.size=32", "--model.network.width=2"]


def fits(run: Run) -> None:
    """The quickstart as a user runs it, several at a time."""
    row = run.table("`lifted fit --config experiments/quickstart.yaml`", "how", "Recall@1", "MAP@R", "NMI", "seconds")
    variants = {"32-true": SMALL} if run.tiny else FITS
    jobs = max(1, (os.cpu_count() or 1) // 4)
    environment = os.environ | {"WANDB_MODE": "disabled", "LIFTED_CACHE_DIR": str(run.work / "pixels")}
    environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))

    def fit(name: str, options: list[str]) -> bool:
        folder = run.work / "runs" / name
        command = [sys.executable, "-m", "lifted_lightning.cli", "fit", "--config", "experiments/quickstart.yaml"]
        command += [f"--trainer.accelerator={run.device}", f"--runs_dir={folder}", "--name=run", *options]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        result = folder / "quickstart" / "run" / "result.json"
        test = json.loads(result.read_text())["test"] if done.returncode == 0 else {"recall@1": "failed"}
        row(name, *map(test.get, ("recall@1", "map@r", "nmi")), time.perf_counter() - start)
        if done.returncode:
            print(f"\n{name}\n{done.stdout[-800:]}\n{done.stderr[-1600:]}", file=sys.stderr)
        return done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        sys.exit(not all(list(pool.map(fit, variants, variants.values()))))


NETWORKS = {"ResNet-50, compiled": "resnet50", "ViT-S/16, compiled": "timm:vit_small_patch16_224"}


def compile(run: Run) -> None:
    """Compile the networks whose training is measured later; the kernels stay in torch's cache."""
    from training.device import Turns

    row = run.table("Compiled, beside other work", "network", "seconds")
    for label, trunk in NETWORKS.items():
        start = time.perf_counter()
        Turns(run.device, trunk, 128, 224, True, 1, 1, run.work).rates()
        row(label, time.perf_counter() - start)


def training(run: Run) -> None:
    """Images a second against the bare network, and where a small network's step waits."""
    from training.device import Turns, waits

    batch, side, windows = (8, 16, (2, 1)) if run.tiny else (128, 40, (100, 3))
    title = f"Training in bf16, batch {batch}, cuDNN's benchmark on; {machine(run)}"
    row = run.table(title, "network", "images a second", "bare", "share")
    for label, trunk in () if run.tiny else NETWORKS.items():
        ours, bare = Turns(run.device, trunk, batch, 224, True, 40, 3, run.work).rates()
        row(f"{label}, 224 px", ours, bare, ours / bare)
    ours, bare = Turns(run.device, "ConvNet", batch, side, False, *windows, run.work).rates()
    row(f"ConvNet, {side} px", ours, bare, ours / bare)

    row = run.table("Where five training steps wait for the device", "line", "times")
    for line, times in waits(run.device, batch, side, run.work).most_common():
        row(line.split("site-packages/")[-1].removeprefix(f"{ROOT}/"), times)


def losses(run: Run) -> None:
    """Each loss at sizes from small to large, for as long as each side bears it."""
    import torch
    from losses import batch, products, step
    from pytorch_metric_learning import distances, miners
    from pytorch_metric_learning import losses as peers

    from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss

    plain, nothing = distances.LpDistance(normalize_embeddings=False), (math.nan,) * 3
    triplets = peers.TripletMarginLoss(margin=0.2, distance=plain)
    semihard = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=plain)
    hardest = miners.BatchHardMiner(distance=plain)
    contrastive = peers.ContrastiveLoss(pos_margin=0, neg_margin=1, distance=plain)
    both: dict[str, tuple[Any, Any]] = {
        "lifted": (
            LiftedStructureLoss(1.0, smooth=True),
            peers.LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=plain),
        ),
        "contrastive, squared, all": (ContrastiveLoss(1.0, average="all", squared=True), contrastive),
        "contrastive, linear, active": (ContrastiveLoss(1.0, average="active", squared=False), contrastive),
        "triplet, all": (TripletLoss(0.2), triplets),
        "triplet, semi-hard": (TripletLoss(0.2, mining="semihard"), lambda x, y: triplets(x, y, semihard(x, y))),
        "triplet, hard": (TripletLoss(0.2, mining="hard"), lambda x, y: triplets(x, y, hardest(x, y))),
        "lifted, eq. 3": (LiftedStructureLoss(1.0, smooth=False), None),
    }
    title = f"Losses, forward and backward, float32, four images a class; ms, MB; {machine(run)}"
    columns = ("loss", "B", "D", "ours", "ours / products", "peer", "peer / ours")
    row = run.table(title, *columns, "kernels", "memory", "peer's kernels", "peer's memory")
    given_up: dict[tuple[str, int, int], bool] = {}  # by loss, D and side: whether that is a failure

    def bear(key: tuple[str, int, int], loss: Any, x: Any, labels: Any) -> tuple[float, float, float]:
        if loss is None or key in given_up:
            return nothing
        try:
            found = measured(run, lambda: step(loss, x, labels))
        except RuntimeError as error:
            given_up[key] = key[2] == 0 and not isinstance(error, torch.OutOfMemoryError)
            print(f"{key}, B = {len(x)}: {str(error)[:300]}", file=sys.stderr)
            return nothing
        if key[2] and found[0] > 0.4:  # a peer that is cubic: a minute at four times the size
            given_up[key] = False
        return found

    for size in (16, 32) if run.tiny else (64, 128, 256, 512, 1024, 4096, 16_384, 65_536):
        for width in (128, 512):
            x, labels = batch(size, width, run.device)
            bare = measured(run, lambda x=x: products(x))[0]
            for name, sides in both.items():
                found = [bear((name, width, side), loss, x, labels) for side, loss in enumerate(sides)]
                (ours, *mine), (peer, *theirs) = found
                row(name, size, width, 1e3 * ours, ours / bare, 1e3 * peer, peer / ours, *mine, *theirs)
    sys.exit(any(given_up.values()))


def measured(run: Run, call: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds of a call, the median of five groups, or of one call where that takes long; kernels that it starts, on a
    CPU operations; its peak memory in MB. What is not measured is NaN.
    """
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    def timed(count: int) -> float:
        wait(run)
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait(run)
        return (time.perf_counter() - start) / count

    memory = kernels = math.nan
    timed(1)  # libraries are loaded, memory is had
    if run.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(1)
    if run.device == "cuda":
        memory = (torch.cuda.max_memory_allocated() - before) / 1e6
    if seconds < 0.3:
        count = 1 if run.tiny else int(min(100, 1 + 0.03 / seconds))
        seconds = statistics.median(timed(count) for _ in range(5))
        kind = run.device.upper()
        with profile(activities=[getattr(ProfilerActivity, kind)]) as recorded:
            timed(1)
        events = [event for event in recorded.events() if event.device_type == getattr(DeviceType, kind)]
        kernels = sum(event.cpu_parent is None for event in events)
    return seconds, kernels, memory


def evaluation(run: Run) -> None:
    """All retrieval metrics of the benchmark's shapes."""
    import torch
    from evaluation import KS, SHAPES, bare_product, make, peak_extra_memory, seconds

    from lifted_lightning.metrics import rank_queries

    title = f"Recall@{', '.join(map(str, KS))}, R-precision and MAP@R, exact; {machine(run)}"
    row = run.table(title, "shape", "seconds", "bare float32 product", "ours / it", "extra memory, GB", "Recall@1")
    device, few = torch.device(run.device), 50 if run.tiny else 1
    for name, (items, classes) in SHAPES.items():
        x, labels = (tensor.to(device) for tensor in make(items // few, classes // few, 2.0))
        sides = {"ours": lambda x=x, y=labels: rank_queries(x, y).metrics(KS), "bare": lambda x=x: bare_product(x)}
        extra = peak_extra_memory(sides["ours"], device) / 1e9  # and warm
        sides["bare"]()
        times = [[seconds(side, device) for side in sides.values()] for _ in range(1 if run.tiny else 5)]
        ours, bare = (statistics.median(taken) for taken in zip(*times, strict=True))
        row(f"{name.upper()}, {len(x):,} × {x.shape[1]}", ours, bare, ours / bare, extra, sides["ours"]()["recall@1"])


def wait(run: Run) -> None:
    """Until the device has done all that was asked of it."""
    import torch

    if run.device == "cuda":
        torch.cuda.synchronize()


def machine(run: Run) -> str:
    import torch

    return f"{torch.cuda.get_device_name() if run.device == 'cuda' else 'CPU'}, torch {torch.__version__}"


@dataclass
class Report:
    """What the parts have said so far, and how each ended."""

    out: Path
    work: Path
    said: dict[str, list[str]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        figures = {}
        for file in sorted(self.work.glob("*.jsonl")):
            figures[file.stem] = [json.loads(line) for line in file.read_text().splitlines()]
        (self.out / "gpu.json").write_text(json.dumps({"parts": self.ended, "figures": figures}, indent=1) + "\n")
        parts = [f"## {p}: {self.ended.get(p, 'runs still')}\n{''.join(lines)}" for p, lines in self.said.items()]
        (self.out / "gpu.md").write_text("\n".join(parts))


def run_part(part: str, options: argparse.Namespace, report: Report, end: float) -> None:
    """Run a part in a process of its own, with what it starts, until it ends or its time is up."""
    lines = report.said.setdefault(part, [])
    seconds = min(LIMITS[part], options.limit, end - time.monotonic())
    if seconds <= 0:
        report.ended[part] = "left out, for the minutes are spent"
        return
    command = [sys.executable, __file__, "--run", part, "--device", options.device, "--work", str(report.work)]
    start, errors = time.monotonic(), report.work / f"{part}.err"
    with open(errors, "w") as error_file:
        process = subprocess.Popen(
            [*command, *(["--tiny"] if options.tiny else [])],
            stdout=subprocess.PIPE, stderr=error_file, text=True, start_new_session=True,
        )  # fmt: skip
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    for line in process.stdout or ():
        lines.append(line)
        print(line, end="", flush=True)
    code = process.wait()
    timer.cancel()
    took = time.monotonic() - start
    state = "done" if not code else "killed by its limit" if took >= seconds else f"failed, code {code}"
    report.ended[part] = f"{state}, {took:.0f} s"
    if code:
        said = errors.read_text(errors="replace")[-6000:]
        lines.append(f"\n```\n{said}\n```\n")
        print(said, flush=True)
    print(f"== {part}: {report.ended[part]}", flush=True)
    report.write()


def main() -> None:
    """Run the parts; the exit code is 1 if one failed or was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="least sizes, nothing compiled: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("gpu_figures"))
    parser.add_argument("--minutes", type=float, default=7, help="for all parts together")
    parser.add_argument("--limit", type=float, default=300, help="seconds for any part, where its own limit is longer")
    parser.add_argument("--run", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        globals()[options.run](Run(options.run, options.device, options.tiny, options.work))
        return
    end = time.monotonic() + 60 * options.minutes
    chosen = [*options.parts, *(["compile"] if "training" in options.parts and not options.tiny else [])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        report = Report(options.out, Path(work))
        with ThreadPoolExecutor(len(BESIDE)) as pool:
            list(pool.map(lambda part: run_part(part, options, report, end), [p for p in BESIDE if p in chosen]))
        for part in LIMITS:
            if part in chosen and part not in BESIDE:
                run_part(part, options, report, end)
        report.write()
    print("\n".join(f"{part}: {how}" for part, how in report.ended.items()))
    sys.exit(not all(how.startswith("done") for how in report.ended.values()))


if __name__ == "__main__":
    main()
