"""A loss of a batch against the embeddings of earlier batches."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses
from torch import Tensor, nn

from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory, LiftedStructureLoss, TripletLoss
from lifted_lightning.losses.pairs import References
from tests.helpers.losses import CASES
from tests.helpers.reference import two_sets

FORMULAS = {ContrastiveLoss: two_sets.contrastive, TripletLoss: two_sets.triplet, LiftedStructureLoss: two_sets.lifted}
OPTIONS = ("margin", "squared", "average", "mining", "smooth")
TWO_SETS = [name for name in CASES if "given" not in name]


def formula(name: str, x: Tensor, labels: Tensor, references: References) -> Tensor:
    """The loss of a case by its formula."""
    loss = CASES[name].loss
    options = {key: value for key, value in vars(loss).items() if key in OPTIONS}
    found = two_sets.pairs(x, labels, references.embeddings, references.labels, references.own)
    return FORMULAS[type(loss)](found, **options)


def batch(seed: int, size: int = 6, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, width, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (size,), generator=generator)


def same(value: Tensor, expected: Tensor, ours: Tensor, truth: Tensor) -> None:
    """Two values, of two leaves, and their gradients; a formula without a term has none."""
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    value.backward()
    (expected + 0 * truth.sum()).backward()
    torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TWO_SETS)
@settings(max_examples=10)
@given(sizes=st.tuples(st.integers(1, 7), st.integers(0, 9)), seed=st.integers(0, 2**31))
def test_value_and_gradient_are_the_formula_s(way: str, name: str, sizes: tuple[int, int], seed: int) -> None:
    (x, labels), (past, names) = batch(seed, sizes[0]), batch(seed + 1, sizes[1])
    own = sizes[1] + torch.arange(sizes[0])
    references = References(torch.cat([past, x]), torch.cat([names, labels]), own)
    ours, truth = x.clone().requires_grad_(), x.clone().requires_grad_()
    same(CASES[name].loss(ours, labels, references), formula(name, truth, labels, references), ours, truth)


@pytest.mark.parametrize("name", TWO_SETS)
@pytest.mark.parametrize("apart", [1.0, 1e-4])
def test_single_precision_is_right(name: str, apart: float) -> None:
    """Also where a class's images are close to each other, and to those remembered."""
    generator = torch.Generator().manual_seed(2)
    centres, labels = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator)), torch.arange(64) % 8
    rows = centres[labels] + apart * torch.randn(64, 16, generator=generator) / 4
    references, own = References(rows, labels, torch.arange(24)), rows[:24]
    ours, truth = own.clone().requires_grad_(), own.double().requires_grad_()
    CASES[name].loss(ours, labels[:24], references).backward()
    exact = references._replace(embeddings=rows.double())
    formula(name, truth, labels[:24], exact).backward()
    assert (ours.grad - truth.grad).norm() <= 2e-5 * truth.grad.norm()


@pytest.mark.parametrize("name", TWO_SETS)
def test_with_nothing_but_the_batch_it_is_the_loss_itself(name: str) -> None:
    x, labels = batch(5, 12)
    memory = CrossBatchMemory(CASES[name].loss, size=20, embedding_size=3).double()
    torch.testing.assert_close(memory(x, labels), CASES[name].loss(x, labels), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["contrastive-active-linear", "triplet-all-active", "lifted"])
def test_the_last_embeddings_are_remembered(name: str) -> None:
    """Batches of several sizes, of which none divides the memory's, against a list of all that was seen."""
    memory = CrossBatchMemory(CASES[name].loss, size=11, start=2, embedding_size=3).double()
    seen, names = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    for number, size in enumerate([4, 3, 5, 1, 11, 4, 4]):
        x, labels = batch(number, size)
        seen, names = torch.cat([seen, x])[-11:], torch.cat([names, labels])[-11:]
        ours, truth = x.clone().requires_grad_(), x.clone().requires_grad_()
        memory.eval()(ours, labels)  # is neither remembered nor compared with what is
        value = memory.train()(ours, labels)
        references = References(seen, names, torch.arange(len(seen) - size, len(seen)))
        expected = CASES[name].loss(truth, labels) if number < 2 else formula(name, truth, labels, references)
        same(value, expected, ours, truth)
    assert not memory.embeddings.requires_grad


PLAIN = distances.LpDistance(normalize_embeddings=False)
PEERS = {  # ours around it, theirs around it, and the factor between them
    "contrastive": (ContrastiveLoss(1.5), losses.ContrastiveLoss(neg_margin=1.5, distance=PLAIN), 2),
    "triplet": (TripletLoss(0.3), losses.TripletMarginLoss(margin=0.3, distance=PLAIN), 2),
    **{
        loss: (getattr(losses, loss)(), getattr(losses, loss)(), 1)
        for loss in losses.CrossBatchMemory.supported_losses()
        if loss != "AngularLoss"  # of triplets of which theirs has too many to take all
    },
}


@pytest.mark.parametrize("name", PEERS)
def test_as_the_memory_of_pytorch_metric_learning(name: str) -> None:
    ours_of, theirs_of, factor = PEERS[name]
    ours = CrossBatchMemory(ours_of, size=20, embedding_size=3).double()
    theirs = losses.CrossBatchMemory(theirs_of, embedding_size=3, memory_size=20)
    for number in range(6):
        x, labels = batch(number)
        both = x.clone().requires_grad_(), x.clone().requires_grad_()
        values = factor * ours(both[0], labels), theirs(both[1], labels)
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-9)
        for value in values:
            value.backward()
        torch.testing.assert_close(both[0].grad, both[1].grad, rtol=1e-5, atol=1e-8)


def test_compiled_it_gives_the_same_without_a_graph_for_each_step() -> None:
    torch._dynamo.reset()
    memory = CrossBatchMemory(ContrastiveLoss(), size=20, embedding_size=3)
    other = copy.deepcopy(memory)
    other.compile(backend="eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for number in range(12):
            x, labels = batch(number)
            torch.testing.assert_close(other(x.float(), labels), memory(x.float(), labels))


class Plain(nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.sum()


@pytest.mark.parametrize(
    "loss",
    [Plain(), losses.ProxyAnchorLoss(3, 8), losses.SmoothAPLoss(), ContrastiveLoss(pairs="consecutive", average="all")],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_that_takes_no_references_is_refused_at_once(loss: nn.Module) -> None:
    with pytest.raises(UserError, match=rf"^CrossBatchMemory.loss {type(loss).__name__}: takes no references \("):
        CrossBatchMemory(loss, start=1000, embedding_size=8)


def test_sizes_out_of_range_are_refused() -> None:
    for options in ({"size": 0}, {"start": -1}):
        with pytest.raises(UserError, match=r"size=.*, start=.*: give"):
            CrossBatchMemory(ContrastiveLoss(), **options, embedding_size=3)
    memory = CrossBatchMemory(ContrastiveLoss(), size=5, embedding_size=3)
    with pytest.raises(UserError, match="size=5: the memory is smaller than the batch of 6"):
        memory(*batch(0))
