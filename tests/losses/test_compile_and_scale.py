"""The losses under torch.compile, and on batches too large for a matrix of all pairs."""

import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from lifted_lightning.losses import pairs
from tests.helpers.losses import CASES

LABELS = torch.tensor([5, 5, 5, 9, 9, 2, 2, 2, 2, 7, -1, -1])


def check_compiled(name: str, backend: str) -> None:
    """Value and gradient are the eager ones, and other labels need no other graph."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(CASES[name].loss, fullgraph=True, backend=counter)
    for labels in (LABELS, torch.arange(12) % 2, torch.arange(12)):
        x = torch.randn(12, 3, generator=torch.Generator().manual_seed(4))
        ours, truth = x.clone().requires_grad_(), x.clone().requires_grad_()
        value, eager = compiled(ours, labels), CASES[name].loss(truth, labels)
        value.backward()
        eager.backward()
        torch.testing.assert_close(value, eager)
        torch.testing.assert_close(ours.grad, truth.grad)
    assert counter.frame_count == 1


EVERYDAY = (
    "contrastive-all",
    "contrastive-active-linear",
    "contrastive-given",
    "lifted",
    "lifted-eq3",
    "triplet-all-active",
)


@pytest.mark.parametrize(
    "name", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_compiles_without_a_graph_break(name: str) -> None:
    check_compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYDAY)
def test_compiles_with_inductor(name: str) -> None:
    check_compiled(name, "inductor")


def test_a_large_batch_on_a_cpu_is_not_compiled() -> None:
    """Compiled code has float64 products; as called code it gives the same bits."""
    x, labels = torch.randn(300, 128, generator=torch.Generator().manual_seed(4)), torch.arange(300) // 4
    assert len(x) ** 2 * x.shape[1] > pairs.FUSED
    ours, truth = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.compile(CASES["lifted"].loss, backend="eager")(ours, labels).backward()
    CASES["lifted"].loss(truth, labels).backward()
    assert torch.equal(ours.grad, truth.grad)


class Operations(TorchDispatchMode):
    """Counts what is dispatched."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [64, 600])
def test_a_step_is_few_operations(name: str, size: int) -> None:
    """On an accelerator they are what a small batch costs."""
    x, labels = torch.randn(size, 16, generator=torch.Generator().manual_seed(4)), torch.arange(size) // 4
    x.requires_grad_()
    with Operations() as operations:
        CASES[name].loss(x, labels).backward()
    few = 60 if TorchVersion(torch.__version__) >= "2.14" else 62  # torch 2.8 makes two more
    assert operations.count <= (90 if "triplet" in name else few)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["contrastive-all", "contrastive-active-linear", "lifted", "lifted-eq3", "triplet-all-active"]
)
def test_large_batch_needs_no_matrix_of_all_pairs(name: str) -> None:
    """At B = 12,288 such a matrix has 576 MB in float32; the loss must do with a fraction of one."""
    code = f"""
import resource, torch
from tests.helpers.losses import CASES
x, labels = torch.randn(12288, 16), torch.arange(12288) // 4
CASES[{name!r}].loss(x[:512].requires_grad_(), labels[:512]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
CASES[{name!r}].loss(x.requires_grad_(), labels).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000  # kilobytes


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_cuda_gives_the_same_and_waits_for_nothing(name: str) -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(4))
    truth, ours, labels = x.clone().requires_grad_(), x.cuda().requires_grad_(), LABELS.cuda()
    CASES[name].loss(truth, LABELS).backward()
    CASES[name].loss(ours, labels).backward()  # libraries are loaded before the watch begins
    ours.grad = None
    torch.cuda.set_sync_debug_mode("error")
    try:
        CASES[name].loss(ours, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(ours.grad.cpu(), truth.grad)
