"""Whose look a published number has."""

import pytest

from lifted_lightning.report.published import Published, nearest


@pytest.mark.parametrize(
    ("loss", "labels", "expected"),
    [
        ("LiftedStructure", ["LiftedStructure (smooth=false)", "LiftedStructure (smooth=true)"], 1),
        ("Contrastive", ["Triplet", "Contrastive (average=active)", "Contrastive (average=all)"], 2),
        ("Triplet", ["TripletLike", "Triplet (mining=hard)"], 1),
        ("Triplet (mining=semihard)", ["Triplet (mining=all)", "Triplet (mining=semihard)"], 1),
        ("Triplet", ["Contrastive", "TripletLike"], None),
    ],
)
def test_the_papers_form_is_taken_for_the_papers(loss: str, labels: list[str], expected: int | None) -> None:
    assert nearest(Published(loss, {}), labels) == (None if expected is None else labels[expected])
