"""The notebooks: what is committed is clean and small, and the figure of the paper's argument is true.

`pytest --nbmake notebooks` runs them.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.reference.dense import lifted

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, as nbformat stores them."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def code(path: Path) -> str:
    """All code cells of a notebook, one after the other."""
    return "\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_executed_small_and_says_nothing_of_the_machine(path: Path) -> None:
    assert path.stat().st_size < 300_000
    counts = [cell["execution_count"] for cell in cells(path) if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom before committing"
    for cell in cells(path):
        assert not cell["metadata"], "execution times and the like change with every run"
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error"
            text = json.dumps(output.get("text") or output["data"].get("text/plain", ""))
            assert not re.search(r"/(home|root|tmp|opt|work|Users)/|[A-Z]:\\\\|\\r|\d+it/s", text), text


def test_the_arrows_point_where_the_paper_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The negative gradients that the notebook draws, and again from the paper's formulas by hand."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(ROOT)
    source = code(ROOT / "notebooks" / "5_why_lifted.ipynb")
    names: dict[str, Any] = {}
    exec(source[: source.index("\nBLUE, GREEN")], names)  # all but the drawing
    points, labels, toward = names["POINTS"], names["LABELS"], names["TOWARD"]
    i, j, k = (points[names[name]] for name in ("ANCHOR", "POSITIVE", "SAMPLED"))
    near = (points[labels == 2] - j).norm(dim=1).min()
    assert (j - k).norm() > 2 * near, "the sampled negative lies far beyond the hard ones"

    # contrastive: 1/m [D_ij² + (1 − D_jk)²]; triplet: squared, both ends as the anchor, of the triplets' number
    push = (1 - (j - k).norm()) * (j - k) / (j - k).norm()
    contrastive = 2 / 4 * ((i - j) + push)
    torch.testing.assert_close(names["ARROWS"]["contrastive"][1], contrastive)
    triplet = 2 / 4 * ((i - j) + (i - k))
    torch.testing.assert_close(names["ARROWS"]["triplet"][1], triplet)
    assert contrastive @ toward > 0
    assert triplet @ toward > 0

    x = points.clone().requires_grad_()
    lifted(x, labels, 1.0, 1.0).backward()
    torch.testing.assert_close(names["ARROWS"]["lifted"], -x.grad)
    assert -x.grad[1] @ toward < 0
    for name, sign in (("contrastive", 1), ("triplet", 1), ("lifted", -1)):
        assert names["COMPONENTS"][name] * sign > 0.3
