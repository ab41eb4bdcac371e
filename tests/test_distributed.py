import torch

from lifted_lightning.distributed import gather_with_gradient, own_share, rank, sum_over_ranks, world_size
from tests.helpers.ranks import run_ranks

DATA = torch.arange(24, dtype=torch.float64).reshape(6, 4).sin()


def _loss(rows: torch.Tensor) -> torch.Tensor:
    return torch.pdist(rows).square().mean()


def _gradient_of_weight() -> torch.Tensor:
    """What DDP would give: the mean over ranks of each rank's gradient."""
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    share = own_share(len(DATA))
    _loss(gather_with_gradient(DATA[share.start : share.stop] @ weight)).backward()
    return sum_over_ranks(weight.grad) / world_size()


def _gradient_and_share() -> tuple[torch.Tensor, list[int]]:
    return _gradient_of_weight(), list(own_share(10))


def test_ranks_share_the_work_evenly_and_have_the_gradient_of_one_process() -> None:
    expected = _gradient_of_weight()  # here: one process
    gradients, shares = zip(*run_ranks(_gradient_and_share, 3), strict=True)
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)
    assert [i for share in shares for i in share] == list(range(10))
    assert {len(share) for share in shares} == {3, 4}


def test_one_process_needs_no_group() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert gather_with_gradient(DATA) is DATA
    assert list(own_share(3)) == [0, 1, 2]
