"""W processes are one: gradients, weights, batches and metrics under DDP against a single process."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.ranks import run_ranks
from tests.helpers.tiny_training import LOSSES, Case, Outcome, build, relative_difference, train

# Rank 0 of two has rows 0-5, all of different classes; the second batch has no positive pair at all.
NO_POSITIVES_ON_A_RANK = ((0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8), tuple(range(12)), (0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7))

EVERYDAY = {
    **{name: Case(loss=name) for name in LOSSES},
    "micro batch": Case(micro_batch=5),
    "proxy anchor, micro batch": Case(loss="proxy anchor", micro_batch=5),
    "clipped": Case(clip=0.5),
    "two views": Case(two_views=True, micro_batch=5),
    "batch normalisation": Case(batchnorm=True),
    "trunk frozen at first": Case(freeze=7),
    "trunk and statistics frozen at first": Case(freeze=7, batchnorm=True),
    "validation": Case(validate=True),
    "local loss": Case(gather=False, steps=1),
    **{
        f"no positives, {name}": Case(loss=name, steps=3, batches=NO_POSITIVES_ON_A_RANK, batch_size=12)
        for name in LOSSES
    },
    "two views, bf16": Case(two_views=True, steps=3, precision="bf16-mixed"),
    **{f"single precision, {name}": Case(loss=name, steps=1, precision="32-true") for name in LOSSES},
    **{f"bf16, {name}": Case(loss=name, steps=3, precision="bf16-mixed", clip=1.0, micro_batch=5) for name in LOSSES},
}
EXACT = [name for name, case in EVERYDAY.items() if case.steps == Case.steps]
Worlds = Callable[[int], dict[str, tuple[Outcome, ...]]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """The outcomes of all cases, one a rank, for a number of ranks; trained when they are first asked for."""
    cache = tmp_path_factory.mktemp("cache")

    @functools.cache
    def outcomes(world_size: int) -> dict[str, tuple[Outcome, ...]]:
        ranks = run_ranks(train, world_size, list(EVERYDAY.values()), world_size, cache, joined=False)
        return dict(zip(EVERYDAY, zip(*ranks, strict=True), strict=True))

    return outcomes


ranks = pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])


@ranks
@pytest.mark.parametrize("name", EXACT)
def test_gradient_and_weights_are_those_of_one_process(worlds: Worlds, world_size: int, name: str) -> None:
    (one,) = worlds(1)[name]
    assert one.positives == [1.0] * Case.steps
    for outcome in worlds(world_size)[name]:
        exact = 1e-10 if EVERYDAY[name].batchnorm else 1e-12  # whose statistics are sums over ranks
        assert relative_difference(outcome.gradients[0], one.gradients[0]) <= exact
        assert relative_difference(outcome.weights, one.weights) <= 1e-9
        assert outcome.losses == pytest.approx(one.losses, rel=1e-9)
        assert outcome.positives == one.positives, "each rank sees those of the global batch"
        torch.testing.assert_close(outcome.buffers, one.buffers, rtol=1e-8, atol=1e-8)


@ranks
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_in_single_precision(worlds: Worlds, world_size: int, name: str) -> None:
    key = f"single precision, {name}"
    (one,) = worlds(1)[key]
    assert one.gradients[0].dtype == torch.float32
    for outcome in worlds(world_size)[key]:
        assert relative_difference(outcome.gradients[0], one.gradients[0]) <= 1e-5


@ranks
@pytest.mark.parametrize("name", LOSSES)
def test_no_positives_on_a_rank_and_none_at_all(worlds: Worlds, world_size: int, name: str) -> None:
    key = f"no positives, {name}"
    (one,) = worlds(1)[key]
    assert one.positives == [0.5, 0.0, 10 / 12]
    assert all(gradient.isfinite().all() for gradient in one.gradients)
    for outcome in worlds(world_size)[key]:
        for ours, theirs in zip(outcome.gradients, one.gradients, strict=True):
            # a memory compares an image with its own embedding of a step before, which is so near that rounding counts
            assert float((ours - theirs).norm()) <= (1e-10 if name == "memory" else 1e-12) * max(
                1.0, float(theirs.norm())
            )
        assert relative_difference(outcome.weights, one.weights) <= 1e-9


@ranks
def test_validation_metrics_are_those_of_one_process(worlds: Worlds, world_size: int) -> None:
    """64 images in shares of 32, 22 or 16, and batches of 7."""
    (one,) = worlds(1)["validation"]
    assert 0 < one.metrics["recall@1"] == one.metrics["again"] < 1
    assert one.metrics["rank"] == 0
    for outcome in worlds(world_size)["validation"]:
        assert outcome.metrics == pytest.approx(one.metrics, abs=1e-12)


@ranks
def test_the_local_loss_is_another(worlds: Worlds, world_size: int) -> None:
    """The ablation: without gathering, each rank has its own loss of its own rows."""
    (one,) = worlds(1)["local loss"]
    local = worlds(world_size)["local loss"]
    assert relative_difference(local[0].gradients[0], one.gradients[0]) > 0.05
    assert torch.equal(local[0].gradients[0], local[1].gradients[0]), "DDP averages what is left"
    assert local[0].losses != local[1].losses


@ranks
@pytest.mark.parametrize("name", LOSSES)
def test_mixed_precision_with_clipping_and_micro_batch(worlds: Worlds, world_size: int, name: str) -> None:
    key = f"bf16, {name}"
    (one,) = worlds(1)[key]
    for outcome in worlds(world_size)[key]:
        assert outcome.weights.dtype == torch.float32
        assert float(outcome.gradients[0].norm()) <= 1 + 1e-4
        assert relative_difference(outcome.gradients[0], one.gradients[0]) <= 0.05


def _sent_at_each_step() -> list[str]:
    module = build(Case(loss="memory", batchnorm=True))
    sent = DistributedDataParallel(module).modules_buffers
    return [name for name, buffer in module.named_buffers() if any(buffer is other for other in sent)]


def test_a_memory_is_not_sent_around() -> None:
    names = run_ranks(_sent_at_each_step, 2)[0]
    assert "network.trunk.2.running_mean" in names
    assert not [name for name in names if name.startswith("loss.")]
