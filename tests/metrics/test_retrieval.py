from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifted_lightning.errors import UserError
from lifted_lightning.metrics import rank_queries, retrieval_metrics
from tests.helpers.embeddings import KINDS, blocks, make
from tests.helpers.reference.retrieval import retrieval_metrics as brute_force

KS = (1, 2, 4, 8)


def check(result: dict[str, float], expected: dict[str, float]) -> None:
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        assert result[key] == pytest.approx(value, rel=1e-12, abs=0, nan_ok=True), key


@pytest.mark.parametrize("small", [False, True], ids=["one block", "small blocks"])
@settings(max_examples=100)
@given(
    st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_equals_brute_force(
    small: bool, kind: str, n: int, d: int, classes: int, apart: bool, cosine: bool, seed: int
) -> None:
    x, labels = make(kind, n, d, classes, seed)
    cosine = cosine and kind in ("random", "duplicates", "equal")  # others have ties but for rounding to length one
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    query, gallery = (rows[: n // 2], rows[n // 3 :]) if apart else (None, None)  # some items are both
    with blocks(small):
        result = rank_queries(x, labels, query, gallery, "cosine" if cosine else "euclidean", neighbours=3)
    arrays = [part if part is None else part.numpy() for part in (query, gallery)]
    check(result.metrics(KS), brute_force(x.numpy(), labels.numpy(), KS, *arrays, cosine=cosine))
    searched = np.arange(n) if gallery is None else np.sort(arrays[1])
    for item, nearest in zip(result.queries.tolist(), result.nearest.numpy(), strict=True) if not cosine else ():
        others = searched[searched != item]
        distances = np.square(x.double().numpy()[others] - x.double().numpy()[item]).sum(1)
        expected = others[np.argsort(distances, kind="stable")][:3]  # ties go to the lower item
        assert nearest[nearest >= 0].tolist() == expected.tolist()


def test_cosine_has_a_place_for_zero_rows() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    result = rank_queries(x, torch.tensor([0, 0, 1, 1]), distance="cosine")
    assert result.rank.tolist() == [1, 1, 3, 3]  # at distance 1 from all others: nearer than a right angle


@pytest.mark.parametrize("small", [False, True], ids=["one block", "small blocks"])
@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**31))
def test_cameras_equal_brute_force(small: bool, kind: str, n: int, classes: int, cameras: int, seed: int) -> None:
    x, labels = make(kind, n, 3, classes, seed)
    g = torch.Generator().manual_seed(seed)
    taken_by, rows = torch.randint(cameras, (n,), generator=g), torch.randperm(n, generator=g)
    query, gallery = (None, None) if seed % 2 else (rows[: n // 2], rows[n // 3 :])
    with blocks(small):
        result = rank_queries(x, labels, query, gallery, neighbours=n, cameras=taken_by)
    arrays = (None if part is None else part.numpy() for part in (query, gallery))
    check(result.metrics(KS), brute_force(x.numpy(), labels.numpy(), KS, *arrays, cameras=taken_by.numpy()))
    found = set(rows.tolist() if gallery is None else gallery.tolist())
    for q, near in zip(result.queries.tolist(), result.nearest.tolist(), strict=True):
        hidden = {q, *((labels == labels[q]) & (taken_by == taken_by[q])).nonzero()[:, 0].tolist()}
        assert sorted(i for i in near if i >= 0) == sorted(found - hidden)


def test_one_camera_leaves_no_answer_and_other_classes_from_it_count() -> None:
    x, labels = torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 1, 0, 1])
    assert rank_queries(x, labels, cameras=[7, 7, 7, 7]).answerable.tolist() == [False] * 4
    assert rank_queries(x, labels, cameras=[7, 7, 8, 8]).rank.tolist() == [2, 3, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_ranked_as_they_are(dtype: torch.dtype) -> None:
    x, labels = make("two tight heaps", 80, 4, 6, 0)
    x = x.to(dtype) + 1e-9 * torch.randn(80, 4, dtype=torch.float64).to(dtype)
    before = x.clone()
    check(retrieval_metrics(x, labels, KS), brute_force(x.double().numpy(), labels.numpy(), KS))
    assert torch.equal(x, before)


def test_collapsed_network_scores_nothing() -> None:
    result = retrieval_metrics(torch.full((6000, 8), 0.3), torch.arange(6000) % 60, (1, 1000, 5900, 5901))
    assert result["recall@1"] == result["recall@5900"] == result["map@r"] == result["r_precision"] == 0
    assert result["recall@5901"] == 1


def test_one_class_scores_everything_and_single_images_are_reported() -> None:
    x = torch.randn(9, 2)
    assert retrieval_metrics(x, torch.zeros(9).long()) == {
        **{f"recall@{k}": 1.0 for k in KS}, "r_precision": 1.0, "map@r": 1.0, "queries_without_positive": 0.0
    }  # fmt: skip
    alone = rank_queries(x, torch.tensor([5, 5, 5, 1, 2, 3, 4, 6, 7]))
    assert alone.metrics()["queries_without_positive"] == 6
    assert alone.answerable.tolist() == [True] * 3 + [False] * 6
    assert alone.rank[3:].tolist() == [0] * 6


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "bool"])
def test_labels_are_any_whole_numbers(dtype: str) -> None:
    x, labels = make("random", 30, 3, 2, 1)
    assert retrieval_metrics(x, labels.numpy().astype(dtype)) == retrieval_metrics(x, labels)


@pytest.mark.parametrize("kept", [{"gallery": []}, {"neighbours": 0}])
def test_nothing_is_nearest_where_nothing_is_searched_or_kept(kept: dict[str, Any]) -> None:
    result = rank_queries(torch.randn(6, 3), torch.arange(6) // 2, **kept)
    assert result.nearest.shape == result.distances.shape == (6, 0)
    assert result.nearest.dtype == torch.int64
    assert result.answerable.tolist() == ["gallery" not in kept] * 6


def test_pytorch_metric_learning_agrees_without_ties() -> None:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    x, labels = make("random", 400, 8, 15, 2)
    x += 2 * torch.randn(15, 8, generator=torch.Generator().manual_seed(3))[labels]
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    theirs = AccuracyCalculator(include=names, k="max_bin_count").get_accuracy(x, labels)
    ours = retrieval_metrics(x, labels)
    assert 0.2 < ours["map@r"] < 0.9
    assert [ours["recall@1"], ours["r_precision"], ours["map@r"]] == pytest.approx([theirs[n] for n in names])


def test_wrong_input_is_refused() -> None:
    x, labels = torch.randn(4, 2), torch.zeros(4).long()
    with pytest.raises(UserError, match="1 of 4 embeddings are not finite"):
        retrieval_metrics(torch.tensor([[0.0, 1], [1, 2], [torch.nan, 0], [1, 1]]), labels)
    with pytest.raises(TypeError, match="not floating point"):
        retrieval_metrics(x.long(), labels)
    with pytest.raises(TypeError, match="labels are"):
        retrieval_metrics(x, labels + 0.5)
    with pytest.raises(UserError, match="2 of 4 embeddings are not finite"):  # nor are the squares of such numbers
        retrieval_metrics(torch.tensor([[0.0], [1e160], [1.0], [-1e151]], dtype=torch.float64), labels)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("labels have shape", {"labels": labels[:3]}),
        ("gallery rows are not distinct", {"gallery": torch.tensor([1, 1])}),
        ("query rows", {"query": torch.tensor([4])}),
        (r"cameras have shape \(3,\)", {"cameras": torch.zeros(3)}),
        ("manhattan", {"distance": "manhattan"}),
    ]
    for message, changes in wrong:
        with pytest.raises(ValueError, match=message):
            retrieval_metrics(**({"embeddings": x, "labels": labels} | changes))


def test_equals_brute_force_where_near_ties_abound() -> None:
    """Sizes at which single precision alone is wrong for some queries."""
    g = torch.Generator().manual_seed(6)
    labels = torch.randint(300, (2000,), generator=g)
    x = torch.nn.functional.normalize(torch.randn(2000, 64, generator=g))
    x = 1e-3 * x + torch.randn(40, 64, generator=g)[labels % 40]
    x[100:200] = x[0]
    result = rank_queries(x, labels)
    some = torch.cat([torch.arange(100, 105), torch.randperm(2000, generator=g)[:200]])
    coarse = 0
    for row in some[result.answerable[some]].tolist():
        negative = labels != labels[row]
        positive = ~negative
        positive[row] = False
        distances = (x.double() - x[row].double()).square().sum(1)
        expected = 1 + int((distances[negative] <= distances[positive].min()).sum())
        assert int(result.rank[row]) == expected
        single = torch.cdist(x[row : row + 1], x)[0]
        coarse += 1 + int((single[negative] <= single[positive].min()).sum()) != expected
    assert coarse > 10
