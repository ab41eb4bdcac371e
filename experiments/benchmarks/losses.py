"""The losses beside pytorch-metric-learning's and the bare matrix products: time, operations, memory.

    python experiments/benchmarks/losses.py              # the table of targets, in five minutes
    python experiments/benchmarks/losses.py --losses lifted --sizes 128 --widths 512 --seconds 5
    python experiments/benchmarks/losses.py --sizes 32768 --widths 128 --losses lifted contrastive
    python experiments/benchmarks/losses.py --device cuda

Forward and backward, float32, four images a class, embeddings not normalised. A row is a loss at a size: ours, the
peer's same form where it survives that size, and three B×B×D float32 products, which a loss by autograd needs (the
distances, and the gradient by each of their two factors). The sides take turns and each figure is the median of its
turns, so that a busy machine slows all alike. Operations are those dispatched, forward and backward; the target is 60,
of triplets 90. Memory (`--memory`) is the peak above what is there before; on the CPU it is resident memory, in a
process of its own (Linux). The peer's lifted loss needs 9 GB at B = 512.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss

OURS = {
    "contrastive": ContrastiveLoss(1.0, average="all", squared=True),
    "contrastive, active": ContrastiveLoss(1.0, average="active", squared=False),
    "triplet": TripletLoss(1.0),
    "triplet, semi-hard": TripletLoss(0.2, mining="semihard"),
    "triplet, hard": TripletLoss(0.2, mining="hard"),
    "lifted": LiftedStructureLoss(1.0, smooth=True),
    "lifted, eq. 3": LiftedStructureLoss(1.0, smooth=False),
}
PEER_SURVIVES = {
    "contrastive": 4096,
    "contrastive, active": 4096,
    "triplet, hard": 4096,
    "lifted": 512,
}  # the largest B
PEER_SURVIVES |= {"triplet": 1024, "triplet, semi-hard": 1024}
FASTER = {"triplet": 1.5}  # than the peer, so many times; at B = 64 to 1,024; 1.2 where nothing is said
LIFTED_FASTER = {128: 100, 512: 2000}
OF_PRODUCTS = {"triplet": 1.8, "triplet, semi-hard": 1.8, "triplet, hard": 1.8}  # at most, at B = 4,096; else 1.5
TURN = 0.02  # seconds that a side has at least before the other goes on
SPREAD = 0.05  # standard deviation of a coordinate: distances of about 1.6 at D = 512, margins are felt


def peer(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """pytorch-metric-learning's loss of that name, un-normalised."""
    from pytorch_metric_learning import distances, miners, reducers
    from pytorch_metric_learning import losses as peers

    class SquaredMean(reducers.MeanReducer):
        def element_reduction(self, losses: Tensor, *rest: object) -> Tensor:
            return losses.square().mean()

    plain = distances.LpDistance(normalize_embeddings=False)
    if name == "lifted":
        return peers.LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=plain)
    if name.startswith("contrastive"):
        reducer = SquaredMean() if name == "contrastive" else reducers.AvgNonZeroReducer()
        return peers.ContrastiveLoss(pos_margin=0, neg_margin=1, distance=plain, reducer=reducer)
    if name == "triplet":
        return peers.TripletMarginLoss(margin=1, distance=plain)
    mined = peers.TripletMarginLoss(margin=0.2, distance=plain)
    if name == "triplet, hard":
        miner: Callable = miners.BatchHardMiner(distance=plain)
    else:
        miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=plain)
    return lambda x, labels: mined(x, labels, miner(x, labels))


def batch(size: int, width: int, device: str) -> tuple[Tensor, Tensor]:
    """Embeddings (B, D) and labels (B,), classes of four in random order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, width, generator=generator) * SPREAD
    return x.to(device), (torch.randperm(size, generator=generator) // 4).to(device)


def step(loss: Callable, x: Tensor, labels: Tensor) -> None:
    """One forward and backward."""
    loss(x.detach().requires_grad_(), labels).backward()


def products(x: Tensor, block: int = 8192) -> None:
    """Three B×B×D products in float32, by row blocks where B×B would not fit."""
    weights = torch.empty(min(block, len(x)), len(x), device=x.device)
    for rows in x.split(block):
        part = weights[: len(rows)]
        torch.mm(rows, x.T, out=part)
        part @ x
        part.T @ rows


def typical(sides: dict[str, Callable[[], None]], device: str, seconds: float) -> dict[str, float]:
    """The median time of each side, in seconds; they take turns until the time is up, twice at least.

    Of a turn the last run counts, for the first meets caches that the other side has filled.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    end, turns = time.perf_counter() + seconds, 0
    while turns < 2 or (time.perf_counter() < end and turns < 500):
        for name, run in sides.items():
            began = start = end_of_run = time.perf_counter()
            while end_of_run - began < TURN:
                if device == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                run()
                if device == "cuda":
                    torch.cuda.synchronize()
                end_of_run = time.perf_counter()
            times[name].append(end_of_run - start)
        turns += 1
    return {name: median(found[1:]) for name, found in times.items()}  # the first turn warms up


class Operations(TorchDispatchMode):
    """Counts what is dispatched."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def operations(loss: Callable, x: Tensor, labels: Tensor) -> int:
    """How many operations a step dispatches."""
    with Operations() as mode:
        step(loss, x, labels)
    return mode.count


def memory(name: str, size: int, width: int, device: str, whose: str) -> float:
    """Peak of one step above the state before it, in MB."""
    if device == "cuda":
        return peak_of_step(name, size, width, device, whose)
    command = [sys.executable, __file__, "--peak-of", name, str(size), str(width), whose]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def peak_of_step(name: str, size: int, width: int, device: str, whose: str) -> float:
    """Peak of one step above the state after a warm-up at B = 32, in MB."""
    loss = OURS[name] if whose == "ours" else peer(name)
    x, labels = batch(size, width, device)
    step(loss, x[:32], labels[:32] // 8)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, x, labels)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = resident("VmRSS")
    step(loss, x, labels)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """This process's resident memory (VmRSS) or its peak (VmHWM), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def row(name: str, size: int, width: int, options: argparse.Namespace) -> str:
    """One line of the table. A target that is missed is marked."""
    x, labels = batch(size, width, options.device)
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: step(OURS[name], x, labels),
        "products": lambda: products(x),
    }
    if has_peer := size <= PEER_SURVIVES.get(name, 0):
        theirs = peer(name)
        sides["peer"] = lambda: step(theirs, x, labels)
    times = typical(sides, options.device, options.seconds)
    ours, bare, other = times["ours"], times["products"], times.get("peer", 0)
    of_products, faster = ours / bare, other / ours
    most = OF_PRODUCTS.get(name, 1.5) if size == 4096 else None
    least = LIFTED_FASTER.get(size) if name == "lifted" else FASTER.get(name, 1.2)
    count, few = operations(OURS[name], x, labels), 90 if "triplet" in name else 60
    cells = [name, f"{size:,}", str(width), f"{count}{', **missed**' * (size <= 1024 and count > few)}"]
    cells.append(f"{ours * 1e3:.2f}")
    cells.append(f"{of_products:.2f}" + (f" (≤ {most}{', **missed**' if of_products > most else ''})" if most else ""))
    judged = has_peer and least and size <= 1024
    cells.append(f"{other * 1e3:.1f}" if has_peer else "")
    cells.append(
        (f"{faster:.{0 if faster > 10 else 2}f}" if has_peer else "")
        + (f" (≥ {least}{', **missed**' if faster < least else ''})" if judged and least else "")
    )
    if options.memory:
        cells.append(f"{memory(name, size, width, options.device, 'ours'):.1f}")
        cells.append(f"{memory(name, size, width, options.device, 'peer'):.1f}" if has_peer else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 4096])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--losses", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--seconds", type=float, default=3, help="to spend on a row, about")
    parser.add_argument("--memory", action="store_true", help="measure it too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-of", nargs=4, metavar=("LOSS", "B", "D", "WHOSE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        name, size, width, whose = options.peak_of
        print(peak_of_step(name, int(size), int(width), "cpu", whose))
        return

    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    print(f"float32, torch {torch.__version__}, {where}; times in ms{', memory in MB' * options.memory}\n")
    columns = ["loss", "B", "D", "operations", "ours", "ours / products", "peer", "peer / ours"]
    columns += ["memory", "peer's memory"] * options.memory
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    for name in options.losses:
        for size in options.sizes:
            for width in options.widths:
                print(row(name, size, width, options), flush=True)


if __name__ == "__main__":
    main()
