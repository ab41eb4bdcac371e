"""What a run costs: processor and GPU time and memory over all ranks, parameters, and multiply-adds of an image."""

import multiprocessing
import platform
import resource
import sys
import time
from contextlib import suppress
from functools import cache
from os import sysconf
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.images import sides
from lifted_lightning.distributed import sum_over_ranks
from lifted_lightning.errors import counted, one_line


class Meter:
    """Measures what a part of a run takes, over all ranks and, given what was spent before, all of its processes.

    Args:
        spent: what was before, to be added to.

    Attributes:
        spent: ``devices`` (each a ``name`` and a ``count``: of one kind, unless the run has gone on elsewhere);
            ``precision``; ``core_seconds``: the time that processors worked, in all threads of each rank and, on Linux,
            in the processes that load its images (not in those that draw pictures or write a logger's records);
            ``gpu_seconds``: wall time multiplied by the number of GPUs, 0 on a CPU; ``peak_resident_bytes``: the most
            main memory of a rank's process since it began, summed over ranks, mapped files included;
            ``peak_gpu_bytes``: the most that torch had allocated on CUDA, likewise.
    """

    def __init__(self, spent: dict[str, Any] | None = None) -> None:
        nothing = {"core_seconds": 0.0, "gpu_seconds": 0.0, "peak_resident_bytes": 0, "peak_gpu_bytes": 0}
        self.spent = spent or {"devices": [], "precision": "", **nothing}

    def start(self, trainer: Trainer) -> None:
        """Begin to measure."""
        device = {"name": device_name(trainer.strategy.root_device), "count": trainer.world_size}
        self.spent["devices"] += [device] * (device not in self.spent["devices"])
        self.spent["precision"] = str(trainer.precision)
        self._loaders: dict[int, float] = {}
        self._core, self._wall = core_seconds(self._loaders), time.monotonic()

    def note(self, trainer: Trainer) -> None:
        """Add what was taken since the last note, or the start. To be called on every rank."""
        device, core, wall = trainer.strategy.root_device, core_seconds(self._loaders), time.monotonic()
        gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        own = torch.tensor([round(1e6 * (core - self._core)), peak_resident_bytes(), gpu], device=device)
        microseconds, resident, allocated = sum_over_ranks(own).tolist()
        self.spent["core_seconds"] = round(self.spent["core_seconds"] + microseconds / 1e6, 3)
        if device.type != "cpu":
            passed = (wall - self._wall) * trainer.world_size
            self.spent["gpu_seconds"] = round(self.spent["gpu_seconds"] + passed, 3)
        for key, value in (("peak_resident_bytes", resident), ("peak_gpu_bytes", allocated)):
            self.spent[key] = max(self.spent[key], value)
        self._core, self._wall = core, wall


def core_seconds(loaders: dict[int, float]) -> float:
    """Processor time of this process, and of those that load images for it, by their process numbers.

    Args:
        loaders: their times, brought up to date; one that has ended keeps what was seen of it last.
    """
    for process in multiprocessing.active_children():
        with suppress(OSError):  # it has ended, or there is no /proc
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            loaders[process.pid or 0] = (int(fields[11]) + int(fields[12])) / sysconf("SC_CLK_TCK")
    return time.process_time() + sum(loaders.values())


def peak_resident_bytes() -> int:
    """The most main memory that this process has had."""
    with suppress(OSError, StopIteration):  # getrusage would count what the parent had when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def device_name(device: torch.device) -> str:
    """What a GPU, or the processor, is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {counted(torch.get_num_threads(), 'thread')}"


def parameters(module: nn.Module, loss: nn.Module) -> dict[str, int]:
    """Numbers of parameters: ``all`` of a module without its loss, those ``trained`` of these, and the ``loss``'s."""
    of_loss = {id(p): p.numel() for p in loss.parameters()}
    own = [p for p in module.parameters() if id(p) not in of_loss]
    trained = sum(p.numel() for p in own if p.requires_grad)
    return {"all": sum(p.numel() for p in own), "trained": trained, "loss": sum(of_loss.values())}


def multiply_adds_of_image(trainer: Trainer, module: LightningModule) -> int | None:
    """Multiply-adds to embed one image as the evaluation does; None where they cannot be counted, which is told.

    To be called on every rank, for a network may wait for its like there.
    """
    data = data_of(trainer)
    images = torch.zeros((1, data.channels, *sides(data.size)), dtype=torch.uint8, device=module.device)
    try:
        with trainer.precision_plugin.forward_context():
            return multiply_adds(module, images) or None
    except Exception as error:  # a network of one's own may do whatever it likes
        rank_zero_warn(f"multiply-adds of an image are not counted: {type(error).__name__}: {one_line(error)}")
        return None


@torch.no_grad()
def multiply_adds(network: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds of a forward pass: those of convolutions, linear layers and matrix products, attention's too.

    Attention is taken apart for it: torch counts it not at all in the fused kernels of a CPU, or of a whole layer.
    What a network computes without torch's operators is not seen.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # nothing is compiled under it
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2  # a multiplication and an addition each
