"""A batch embedded in pieces: the gradient of the whole, the same random numbers twice, statistics once."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lifted_lightning.data.augment import CropMirror
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.training.microbatch import embed_in_pieces
from tests.helpers.ranks import run_ranks
from tests.helpers.tiny import TinyNetwork
from tests.helpers.tiny_training import Case, Outcome, train

LABELS = torch.arange(24) // 2


def step(network: nn.Module, pieces: int | None, kept: bool = False) -> tuple[Tensor, Tensor]:
    """Embeddings and gradient of one batch; ``kept`` keeps the activations of the pieces, without recomputing."""
    images = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    augment = CropMirror(size=12).double()
    draws = augment.draw((0, 0, 0), 24)

    def embed(part: Tensor, part_draws: Tensor) -> Tensor:
        return network(augment(part, part_draws))

    torch.manual_seed(7)
    if pieces is None:
        embeddings = embed(images, draws)
    elif kept:
        embeddings = torch.cat([embed(*piece) for piece in zip(images.split(pieces), draws.split(pieces), strict=True)])
    else:
        embeddings = embed_in_pieces(embed, images, draws, pieces, network)
    LiftedStructureLoss()(embeddings, LABELS).backward()
    return embeddings.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("pieces", [1, 5, 8, 23])
def test_gradient_is_that_of_the_whole_batch(pieces: int) -> None:
    network = TinyNetwork().double()
    whole, gradient = step(copy.deepcopy(network), None)
    ours, ours_gradient = step(network, pieces)
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours_gradient, gradient, rtol=1e-12, atol=1e-13)


def test_dropout_and_augmentation_are_replayed() -> None:
    """Bit for bit the gradient of the same pieces with their activations kept."""
    network = TinyNetwork(dropout=0.3).double()
    kept, kept_gradient = step(copy.deepcopy(network), 5, kept=True)
    ours, ours_gradient = step(network, 5)
    assert torch.equal(ours, kept)
    assert torch.equal(ours_gradient, kept_gradient)
    assert not torch.equal(ours, step(copy.deepcopy(network).eval(), 5)[0]), "dropout was on"


def test_batch_statistics_are_updated_once() -> None:
    network = TinyNetwork(batchnorm=True).double()
    other = copy.deepcopy(network)
    _, kept_gradient = step(other, 8, kept=True)
    _, gradient = step(network, 8)
    torch.testing.assert_close(gradient, kept_gradient, rtol=1e-12, atol=1e-13)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name
    assert network.trunk[2].num_batches_tracked == 3
    assert network.trunk[2].momentum == 0.1


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    cases = [
        Case(clip=0.5),
        Case(clip=0.5, micro_batch=7),
        Case(clip=0.5, precision="bf16-mixed", steps=3),
        Case(clip=0.5, precision="bf16-mixed", steps=3, micro_batch=7),
    ]
    return run_ranks(train, 1, cases, 1, tmp_path_factory.mktemp("cache"), joined=False)[0]


def test_training_is_that_of_the_whole_batch(outcomes: list[Outcome]) -> None:
    whole, pieces, *_ = outcomes
    assert float(whole.gradients[0].norm()) == pytest.approx(0.5, rel=1e-4), "clipped"
    torch.testing.assert_close(pieces.gradients[0], whole.gradients[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(pieces.weights, whole.weights, rtol=0, atol=1e-9)


def test_training_in_mixed_precision(outcomes: list[Outcome]) -> None:
    *_, whole, pieces = outcomes
    assert float((pieces.gradients[0] - whole.gradients[0]).norm()) <= 0.02 * float(whole.gradients[0].norm())
