"""Time and memory of all retrieval metrics, against the bare matrix product and other libraries.

    python experiments/benchmarks/evaluation.py                  # both shapes, on the CPU; some minutes
    python experiments/benchmarks/evaluation.py --shape cub
    python experiments/benchmarks/evaluation.py --device cuda    # ours and the bare product alone

Both sides of a ratio are run in turn, in one process, and the median of the rounds is shown.
pytorch-metric-learning searches by faiss, and needs the 1,000 nearest of each query for the same metrics; it
is also shown with as many neighbours as the largest class has, when it cannot give Recall@1000. faiss's flat
index alone gives the 1,000 nearest, and no metric.
"""

import argparse
import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lifted_lightning.metrics import rank_queries

SHAPES = {"cub": (5_924, 100), "sop": (60_502, 11_316)}  # items and classes of the test sets
WIDTH = 512
KS = (1, 10, 100, 1000)


def make(items: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    """Unit embeddings (N, 512) scattered about a centre for each class, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(items) % classes)[torch.randperm(items, generator=generator)]
    centres = torch.randn(classes, WIDTH, generator=generator)
    noises = noise * torch.randn(items, WIDTH, generator=generator)
    return torch.nn.functional.normalize(centres[labels] + noises), labels


def bare_product(x: Tensor) -> None:
    """x x^T in tiles, nothing kept: 1,024 x 4,096 on the CPU, larger on a device."""
    rows, columns = (1024, 4096) if x.device.type == "cpu" else (4096, 16384)
    memory = x.new_empty(rows * columns)
    for queries in x.split(rows):
        for gallery in x.split(columns):
            out = memory[: len(queries) * len(gallery)].view(len(queries), len(gallery))
            torch.mm(queries, gallery.T, out=out)


def pytorch_metric_learning(x: Tensor, labels: Tensor, k: int | str) -> dict[str, float]:
    """Its AccuracyCalculator by so many neighbours, extended by Recall@K up to k."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    class Calculator(AccuracyCalculator):
        def calculate_recalls(self, knn_labels: Tensor, query_labels: Tensor, **kwargs: object) -> dict[int, float]:
            hits = knn_labels == query_labels[:, None]
            return {n: float(hits[:, :n].any(1).float().mean()) for n in KS if n <= hits.shape[1]}

        def requires_knn(self) -> list[str]:
            return [*super().requires_knn(), "recalls"]

    names = ("recalls", "r_precision", "mean_average_precision_at_r")
    return Calculator(include=names, k=k, device=torch.device("cpu")).get_accuracy(x, labels)


def faiss_flat(x: Tensor, k: int) -> None:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x.numpy())
    index.search(x.numpy(), k + 1)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    gc.collect()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_extra_memory(function: Callable[[], object], device: torch.device) -> float:
    """Bytes beyond what was held before: of the device, or of the process, looked at every 5 ms."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    before = peak = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return peak - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(name: str, items: int, classes: int, options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    x, labels = make(items, classes, options.noise)
    x, labels = x.to(device), labels.to(device)
    sides: dict[str, Callable[[], object]] = {
        "all metrics": lambda: rank_queries(x, labels).metrics(KS),
        "bare product": lambda: bare_product(x),
    }
    if device.type == "cpu" and not options.alone:
        k = min(max(KS), items - 1)
        sides["pytorch-metric-learning, same metrics"] = lambda: pytorch_metric_learning(x, labels, k)
        sides["pytorch-metric-learning, no Recall@1000"] = lambda: pytorch_metric_learning(x, labels, "max_bin_count")
        sides[f"faiss flat, k={k}"] = lambda: faiss_flat(x, k)
    bare_product(x[:5000])
    rank_queries(x[:5000], labels[:5000])  # warm
    memory = peak_extra_memory(sides["all metrics"], device)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, function in sides.items():
            times[side].append(seconds(function, device))
    ours = statistics.median(times["all metrics"])
    print(f"\n{name}-shaped: {items} x {WIDTH}, {classes} classes, {options.device}, {options.rounds} rounds")
    print(f"{'':40}{'seconds':>9}{'ours / it':>11}{'it / ours':>11}")
    for side, taken in times.items():
        median = statistics.median(taken)
        print(f"{side:40}{median:9.3f}{ours / median:11.2f}{median / ours:11.2f}")
    print(f"peak extra memory, all metrics: {memory / 1e9:.2f} GB")
    print({key: round(value, 4) for key, value in rank_queries(x, labels).metrics(KS).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU, for every side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fraction", type=float, default=1.0, help="of items and classes, for a quick look")
    parser.add_argument("--noise", type=float, default=2.0, help="scatter within a class; centres scatter by 1")
    parser.add_argument("--alone", action="store_true", help="leave the other libraries out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in SHAPES if options.shape == "both" else [options.shape]:
        items, classes = SHAPES[name]
        measure(name, int(items * options.fraction), max(1, int(classes * options.fraction)), options)


if __name__ == "__main__":
    main()
