"""What is measured of a run, against counts by hand, published ones, and work of a known length."""

import multiprocessing
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifted_lightning.callbacks import costs
from lifted_lightning.callbacks.costs import Meter, multiply_adds, parameters
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork
from tests.helpers.ranks import run_ranks


def trainer_of(ranks: int = 1) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(strategy=strategy, world_size=ranks, precision="32-true")


def work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def squeezenet_by_hand() -> int:
    """SqueezeNet 1.1 at 224 pixels, layer by layer, and a head of 64."""
    found = 3 * 64 * 9 * 111**2
    side, channels = 55, 64
    for i, (squeeze, expand) in enumerate(
        [(16, 64), (16, 64), (32, 128), (32, 128), *[(48, 192)] * 2, *[(64, 256)] * 2]
    ):
        side = {2: 27, 4: 13}.get(i, side)
        found += side**2 * (channels * squeeze + squeeze * expand + 9 * squeeze * expand)
        channels = 2 * expand
    return found + 512 * 64


CONVNET = 9 * (28**2 * 1 * 32 + 14**2 * 32 * 64 + 7**2 * 64 * 128 + 3**2 * 128 * 128) + 16 * 128 * 64


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (lambda: ConvNet(), (1, 28, 28), CONVNET),
        (lambda: EmbeddingNetwork("squeezenet1_1", pretrained=False), (3, 224, 224), squeezenet_by_hand()),
        (lambda: EmbeddingNetwork("resnet50", pretrained=False), (3, 224, 224), 4.1e9),
        (lambda: EmbeddingNetwork("timm:vit_small_patch16_224", pretrained=False), (3, 224, 224), 4.6e9),
    ],
    ids=["ConvNet", "SqueezeNet", "ResNet-50", "ViT-S/16"],
)
@torch.inference_mode()
def test_multiply_adds_are_those_by_hand_or_published(network: Any, shape: tuple[int, ...], expected: float) -> None:
    assert multiply_adds(network().eval(), torch.zeros(1, *shape)) == pytest.approx(expected, rel=0.02)


class Attention(nn.Module):
    """Self-attention of torch's, which computes a whole layer in one operation in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


def test_attention_within_one_operation_is_counted_and_compiled_networks_are_not_compiled_for_it() -> None:
    network, n, d = Attention().eval(), 10, 32
    network.compile(backend=lambda *args: pytest.fail("it is compiled"))
    assert multiply_adds(network, torch.zeros(1, n, d)) == 4 * n * d * d + 2 * n * n * d + 2 * n * d * 64
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_cannot_be_counted_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(nn.Module):
        device = torch.device("cpu")

        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("I want two\nimages")

    monkeypatch.setattr(costs, "data_of", lambda trainer: SimpleNamespace(channels=1, size=8))
    precision = SimpleNamespace(forward_context=torch.no_grad)
    with pytest.warns(UserWarning, match="not counted: ValueError: I want two images$"):
        assert costs.multiply_adds_of_image(SimpleNamespace(precision_plugin=precision), Picky()) is None  # type: ignore[arg-type]


def test_parameters_of_the_loss_are_counted_by_themselves() -> None:
    module = nn.ModuleDict({"trunk": nn.Linear(3, 4, bias=False), "head": nn.Linear(4, 2), "loss": nn.Linear(2, 7)})
    module["trunk"].requires_grad_(False)
    assert parameters(module, module["loss"]) == {"all": 22, "trained": 10, "loss": 21}


def test_processor_time_is_that_of_threads_and_loaders_and_not_of_waiting() -> None:
    meter, trainer = Meter(), trainer_of()
    ready = multiprocessing.get_context("fork").Event()

    def load() -> None:
        work(0.3)
        ready.set()
        time.sleep(60)

    meter.start(trainer)
    loader = multiprocessing.get_context("fork").Process(target=load, daemon=True)
    loader.start()
    work(0.2)
    time.sleep(0.5)
    assert ready.wait(60)
    meter.note(trainer)
    loader.kill()
    loader.join()
    assert 0.45 < meter.spent["core_seconds"] < 0.8
    before = meter.spent["core_seconds"]
    meter.note(trainer)
    assert meter.spent["core_seconds"] - before < 0.1, "nothing is counted twice"


def measured() -> dict[str, Any]:
    meter, trainer = Meter(), trainer_of(2)
    meter.start(trainer)
    work(0.2)
    meter.note(trainer)
    return meter.spent


def test_ranks_are_summed() -> None:
    first, second = run_ranks(measured, 2)
    assert first == second
    assert 0.4 <= first["core_seconds"] < 0.7
    assert first["devices"][0]["count"] == 2


def grown() -> int:
    before = costs.peak_resident_bytes()
    held = bytearray(b"x") * 200_000_000
    after = costs.peak_resident_bytes()
    del held
    return after - before


def test_peak_memory_is_this_process_s() -> None:
    assert 5e7 < run_ranks(grown, 2)[0] < 4e8, "of a new process, whose peak is now"


@pytest.mark.gpu
def test_gpu_time_is_wall_time_times_gpus_and_its_memory_torch_s() -> None:
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=1, precision="16-mixed")
    meter = Meter()
    meter.start(trainer)
    held = torch.ones(2**26, device="cuda")
    time.sleep(0.5)
    meter.note(trainer)
    del held
    assert meter.spent["devices"] == [{"name": torch.cuda.get_device_name(0), "count": 1}]
    assert 0.5 <= meter.spent["gpu_seconds"] < 10
    assert meter.spent["peak_gpu_bytes"] >= 4 * 2**26
