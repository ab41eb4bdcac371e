"""What batches cost on labels like Stanford Online Products' (59,551 images, 11,318 classes), B = 128.

    OMP_NUM_THREADS=1 python experiments/benchmarks/samplers.py                 # one core: about a minute
    python experiments/benchmarks/samplers.py --device cuda                     # the search on a GPU

Prints a Markdown table: start-up and global batches a second without neighbours, and with neighbours the time
a step that the search, the table and its snapshots add, against a training step of ResNet-50 on the device.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torchvision.models import resnet50

from lifted_lightning.data.batches import GlobalBatchSampler, PositivePairs, ReleasedPairs

IMAGES, CLASSES, BATCH, SIZE = 59_551, 11_318, 128, 224


def product_like_labels(seed: int = 0) -> np.ndarray:
    """Shuffled labels of 11,318 classes of 2 to 12 images, 59,551 in all."""
    random = np.random.default_rng(seed)
    sizes = np.clip(random.poisson(3.26, CLASSES) + 2, 2, 12)
    while (missing := IMAGES - sizes.sum()) != 0:
        chosen = random.choice(CLASSES, abs(missing), replace=False)
        sizes[chosen] = np.clip(sizes[chosen] + np.sign(missing), 2, 12)
    return random.permutation(np.repeat(np.arange(CLASSES), sizes))


def median_time(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of a call, the device's work included; one call before it is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def rate(sampler: GlobalBatchSampler, labels: np.ndarray, seconds: float) -> tuple[float, float]:
    """Seconds to the first batch, and batches a second after it, in processor time of this one thread."""
    start = time.process_time()
    sampler.bind(labels, batch_size=BATCH)
    sampler.global_batch(0, 0)
    startup = time.process_time() - start
    start, drawn = time.process_time(), 0
    while (passed := time.process_time() - start) < seconds:
        for step in range(100):
            sampler.global_batch(1 + drawn // 100, step)
        drawn += 100
    return startup, drawn / passed


def neighbour_costs(
    labels: np.ndarray, dimension: int, share: float, device: torch.device, repeats: int
) -> dict[str, float]:
    """Seconds a step for the search, for recording a batch, and for snapshots spread over an interval."""
    sampler = PositivePairs(neighbours=share).bind(labels, batch_size=BATCH, device=device)
    plain = PositivePairs(neighbours=0).bind(labels, batch_size=BATCH)
    random = torch.Generator().manual_seed(0)
    for _ in range(50):  # every image seen at the first refresh, so that the search has all to do
        rows = torch.randperm(IMAGES, generator=random)
        sampler.record(rows, torch.randn(IMAGES, dimension, generator=random).to(device))
    batch, rows = torch.from_numpy(plain.global_batch(0, 0)), torch.randn(BATCH, dimension).to(device)
    batch = batch.to(device)
    steps = iter(range(100, 150))  # one interval, which seeks in that refresh
    with_search = median_time(lambda: sampler.global_batch(0, next(steps)), repeats, device)
    assert sampler.diagnostics(100) == {"neighbour_share": share}
    without = median_time(lambda: plain.global_batch(0, 7), repeats, device)
    table = torch.empty(IMAGES, dimension, dtype=torch.float16, device=device)
    return {
        "search": with_search - without,
        "record": median_time(lambda: sampler.record(batch, rows), repeats, device),
        "snapshot": median_time(table.clone, repeats, device) / 50,
    }


def step_time(device: torch.device, images: int) -> float:
    """Seconds of a ResNet-50 training step of 128 images, extrapolated from a step of ``images``."""
    network = resnet50(num_classes=512).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    x = torch.randn(images, 3, SIZE, SIZE, device=device).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = network(x).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_time(step, 3 if device.type == "cpu" else 20, device) * BATCH / images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dimension", type=int, default=512, help="embedding size")
    parser.add_argument("--neighbours", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each rate")
    parser.add_argument("--repeats", type=int, default=20, help="of each cost with neighbours, at most 40")
    parser.add_argument("--step-images", type=int, default=None, help="images of the ResNet-50 step timed")
    args = parser.parse_args()
    device, labels = torch.device(args.device), product_like_labels()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads; D = {args.dimension}\n")
    print("| sampler | start-up, s | global batches/s |\n|---|---|---|")
    for name, sampler in {
        "positive pairs": PositivePairs(neighbours=0),
        "positive pairs, by size": PositivePairs(neighbours=0, class_weights="size"),
        "released scheme": ReleasedPairs(),
    }.items():
        startup, batches = rate(sampler, labels, args.seconds)
        print(f"| {name} | {startup:.3f} | {batches:,.0f} |", flush=True)
    costs = neighbour_costs(labels, args.dimension, args.neighbours, device, args.repeats)
    step = step_time(device, args.step_images or (8 if device.type == "cpu" else BATCH))
    print(f"\n| neighbours {args.neighbours:g} | ms a step | share of a ResNet-50 step |\n|---|---|---|")
    for name, seconds in [*costs.items(), ("all three", sum(costs.values())), ("ResNet-50 step", step)]:
        print(f"| {name} | {1000 * seconds:.2f} | {seconds / step:.2%} |")


if __name__ == "__main__":
    main()
