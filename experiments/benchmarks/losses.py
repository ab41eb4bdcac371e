"""Time and memory of the losses, beside pytorch-metric-learning's and the bare matrix products.

    python experiments/benchmarks/losses.py              # B = 128 to 4096 at D = 512; triplet at 8192 also
    python experiments/benchmarks/losses.py --large      # B = 32,768 at D = 128 (65,536 on a GPU)
    python experiments/benchmarks/losses.py --device cuda

Forward and backward, float32, four images a class, embeddings not normalised. A row is a loss at a size:
ours, the peer's where it survives that size, and three B×B×D float32 products, which a loss over all pairs
needs (distances, and the gradient by each of their two factors). Each figure is the best of several runs; the
sides take turns, so that a busy machine slows all alike. Memory is the peak above what is there before; on
the CPU it is resident memory, in a process of its own (Linux). The peer's lifted loss needs 4 GB at B = 512.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss

OURS = {
    "lifted": LiftedStructureLoss(1.0, smooth=True),
    "lifted, eq. 3": LiftedStructureLoss(1.0, smooth=False),
    "contrastive": ContrastiveLoss(1.0, average="all", squared=True),
    "triplet, all": TripletLoss(0.2),
    "triplet, semihard": TripletLoss(0.2, mining="semihard"),
    "triplet, hard": TripletLoss(0.2, mining="hard"),
}
PEER_SURVIVES = {"lifted": 512, "contrastive": 4096, "triplet, all": 1024}  # the largest B
SPREAD = 0.05  # standard deviation of a coordinate: distances of about 1.6 at D = 512, margins are felt


def peer(name: str) -> torch.nn.Module:
    """pytorch-metric-learning's loss of that name, un-normalised."""
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import ContrastiveLoss, LiftedStructureLoss, TripletMarginLoss

    plain = LpDistance(normalize_embeddings=False)
    if name == "lifted":
        return LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=plain)
    if name == "contrastive":
        return ContrastiveLoss(pos_margin=0, neg_margin=1, distance=plain)
    return TripletMarginLoss(margin=0.2, distance=plain)


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


def best(sides: dict[str, Callable[[], None]], device: str, seconds: float) -> dict[str, float]:
    """The shortest time of each side, in seconds; they take turns until the time is up, twice at least."""
    shortest = dict.fromkeys(sides, float("inf"))
    end, turns = time.perf_counter() + seconds, 0
    while turns < 2 or (time.perf_counter() < end and turns < 50):
        for name, run in sides.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
        turns += 1
    return shortest


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


def row(name: str, size: int, width: int, device: str, seconds: float) -> str:
    """One line of the table."""
    x, labels = batch(size, width, device)
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: step(OURS[name], x, labels),
        "products": lambda: products(x),
    }
    if size <= PEER_SURVIVES.get(name, 0):
        theirs = peer(name)
        sides["peer"] = lambda: step(theirs, x, labels)
    times = best(sides, device, seconds)
    ours, bare, other = times["ours"], times["products"], times.get("peer")
    cells = [name, f"{size:,}", f"{ours * 1e3:.2f}", f"{bare * 1e3:.2f}", f"{ours / bare:.2f}"]
    cells += [f"{other * 1e3:.1f}", f"{other / ours:.1f}"] if other else ["", ""]
    cells.append(f"{memory(name, size, width, device, 'ours'):.1f}")
    cells.append(f"{memory(name, size, width, device, 'peer'):.1f}" if other else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 1024, 4096])
    parser.add_argument("--width", type=int, help="D; default 512, or 128 with --large")
    parser.add_argument("--losses", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--large", action="store_true", help="one large batch; lifted and contrastive")
    parser.add_argument("--seconds", type=float, default=10, help="to spend on a row, about")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-of", nargs=4, metavar=("LOSS", "B", "D", "WHOSE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        name, size, width, whose = options.peak_of
        print(peak_of_step(name, int(size), int(width), "cpu", whose))
        return

    width = options.width or (128 if options.large else 512)
    todo = [(name, size) for size in options.sizes for name in options.losses]
    if options.large:
        todo = [(name, 65_536 if options.device == "cuda" else 32_768) for name in ("lifted", "contrastive")]
    elif "triplet, all" in options.losses and max(options.sizes) == 4096:
        todo.append(("triplet, all", 8192))
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    print(f"D = {width}, float32, torch {torch.__version__}, {where}; times in ms, memory in MB\n")
    print("| loss | B | ours | products | ours / products | peer | peer / ours | memory | peer's memory |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, size in todo:
        print(row(name, size, width, options.device, options.seconds), flush=True)


if __name__ == "__main__":
    main()
