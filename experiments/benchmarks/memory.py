"""A cross-batch memory beside the bare matrix products that it cannot do without.

    python -m experiments.benchmarks.memory --threads 1
    python -m experiments.benchmarks.memory --device cuda

Forward and backward of each loss, float32, a batch of 128 against a memory of 8,192 at D = 512, embeddings of unit
length, classes of four; and two B×M×D float32 products, of the distances and of the gradient. They take turns; the
target is twice the products.
"""

import argparse
from collections.abc import Iterator
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.benchmarks.losses import typical
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory, LiftedStructureLoss, TripletLoss

LOSSES = {"contrastive": ContrastiveLoss(), "triplet": TripletLoss(), "lifted": LiftedStructureLoss()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=8192, help="of the memory")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10, help="to spend on a row, about")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    shape = options.size, options.width
    rows = normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(options.device)
    labels = torch.arange(options.size, device=options.device) // 4
    x = rows[: options.batch]

    def products() -> Tensor:
        return (x @ rows.T) @ rows

    print("| loss | ours, ms | products, ms | ours / products |\n|---|---|---|---|")
    for name, loss in LOSSES.items():
        memory = CrossBatchMemory(loss, options.size, embedding_size=options.width).to(options.device)
        batches = cycle(zip(rows.split(options.batch), labels.split(options.batch), strict=True))
        for part, names in islice(batches, options.size // options.batch):
            memory(part, names)

        def step(memory: CrossBatchMemory = memory, batches: Iterator[tuple[Tensor, Tensor]] = batches) -> None:
            part, names = next(batches)
            memory(part.detach().requires_grad_(), names).backward()

        times = typical({"ours": step, "products": products}, options.device, options.seconds)
        ratio = times["ours"] / times["products"]
        cells = [f"{times[side] * 1e3:.2f}" for side in ("ours", "products")]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.2f}{', **missed**' * (ratio > 2)} |", flush=True)


if __name__ == "__main__":
    main()
