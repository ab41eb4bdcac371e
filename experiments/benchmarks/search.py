"""`lifted search`, after loading: queries among a million embeddings, and what loading takes.

python experiments/benchmarks/search.py --items 1000000 --size 128

Where the memory allows it, faiss's exact search (`IndexFlatL2`, in single precision) takes turns with ours.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lifted_lightning.commands.search import rows_of
from lifted_lightning.metrics import nearest
from lifted_lightning.runs.embeddings import Embeddings, read_embeddings


def make_index(items: int, size: int) -> Embeddings:
    """An index of random embeddings."""
    rng = np.random.default_rng(0)
    return Embeddings(
        embeddings=rng.standard_normal((items, size), dtype=np.float32),
        paths=np.array([f"photos/{i // 1000:04}/{i:07}.jpg" for i in range(items)]),
        labels=np.arange(items) // 1000,
        class_names=np.array([f"{i:04}" for i in range(items // 1000 + 1)]),
        folder="", checkpoint="", checkpoint_sha256="", size=224, resize="squash", channels=3, distance="euclidean",
    )  # fmt: skip


def main() -> None:
    """Time writing, reading and searching, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    import faiss

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npz"
        index = make_index(options.items, options.size)
        began = time.perf_counter()
        index.save(path)
        wrote = time.perf_counter()
        index = read_embeddings(path)
        read = time.perf_counter()
        megabytes = os.path.getsize(path) / 1e6
    print(f"{megabytes:.0f} MB written in {wrote - began:.2f} s, read in {read - wrote:.2f} s")
    gallery = torch.from_numpy(index.embeddings)
    flat = faiss.IndexFlatL2(options.size)
    flat.add(index.embeddings)
    print(f"| queries among {options.items:,} x {options.size} | lifted | faiss | ratio |\n|---|---|---|---|")
    for count, distance in ((1, "euclidean"), (1, "cosine"), (10, "euclidean")):
        times: list[tuple[float, float]] = []
        for seed in range(options.rounds):
            queries = torch.randn(count, options.size, generator=torch.Generator().manual_seed(seed))
            began = time.perf_counter()
            rows_of(index, [f"photos/{seed:04}/{seed:07}.jpg"] * count)  # as the command does
            _, rows = nearest(queries, gallery, options.k, distance=distance)
            middle = time.perf_counter()
            if distance == "euclidean":
                _, found = flat.search(queries.numpy(), options.k)
                assert (rows.numpy() == found).mean() > 0.99  # faiss cannot tell near ties
            times.append((middle - began, time.perf_counter() - middle))
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        peer = f"{theirs:.3f} s | {ours / theirs:.1f}" if distance == "euclidean" else "| "
        print(f"| {count}, {distance} | {ours:.3f} s | {peer} |")


if __name__ == "__main__":
    main()
