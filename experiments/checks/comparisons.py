"""How often a report calls equal losses different: families of comparisons in which nothing differs, simulated.

python -m experiments.checks.comparisons                  # the whole table, within a minute
python -m experiments.checks.comparisons --families 500

A run's score is what its fold brings, for all losses alike; what its fold brings for its loss alone (so that runs of
one loss on one fold are no independent ones); and noise of its own. All three are normal, the losses' means equal.
The scores go through the report's own code, from a frame of runs to the corrected p, a family a metric.
"""

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd

from lifted_lightning.report.compare import compare
from lifted_lightning.report.paired import Pairs, pairs_of
from lifted_lightning.report.read import Runs
from lifted_lightning.report.statistics import sign_flips


class Design(NamedTuple):
    """How many losses, folds (0 for none) and repeats there are; standard deviations of what makes their scores."""

    losses: int
    folds: int
    repeats: int
    of_fold: float = 0.03
    of_fold_and_loss: float = 0.01
    of_run: float = 0.01


DESIGNS = (
    Design(3, 4, 2),
    Design(3, 4, 2, of_fold_and_loss=0.0),
    Design(3, 4, 10),
    Design(6, 4, 10),
    Design(3, 8, 1),
    Design(3, 0, 5),
    Design(6, 0, 10),
)


def simulated(design: Design, families: int, seed: int = 0, as_independent: bool = False) -> Pairs:
    """Each pair of losses compared, in so many families.

    Args:
        design: of the runs.
        families: how many; they stand as metrics, which the report corrects one by one.
        seed: of the scores.
        as_independent: whether the runs do not say of which fold they are, so that each counts as a seed of its own.
    """
    random = np.random.default_rng(seed)
    losses, folds, repeats = design.losses, max(design.folds, 1), design.repeats

    def normal(spread: float, *shape: int) -> np.ndarray:
        return random.normal(0.0, spread, (*shape, families))

    scores = (
        0.6 + normal(design.of_fold, 1, folds, 1) * bool(design.folds)
        + normal(design.of_fold_and_loss, losses, folds, 1) * bool(design.folds)
        + normal(design.of_run, losses, folds, repeats)
    ).reshape(-1, families)  # fmt: skip
    loss, fold, repeat = (part.ravel() for part in np.indices((losses, folds, repeats)))
    known = bool(design.folds) and not as_independent
    about = {
        "name": [f"run {i}" for i in range(len(loss))],
        "folder": "",
        "seed": (repeat if known else repeat + repeats * fold).tolist(),
        "fold": fold.tolist() if known else None,
        "same": [f"loss {i}" for i in loss],
        "result": [{} for _ in loss],
    }
    settings = {"dataset": "simulated", "embedding_size": 64, "model.loss.class_path": [f"own.L{i}Loss" for i in loss]}
    values = pd.DataFrame(scores, columns=[f"test/recall@{i + 1}" for i in range(families)])
    parts = {part: pd.DataFrame(columns, dtype=object) for part, columns in (("run", about), ("setting", settings))}
    frame = pd.concat({**parts, "value": values}, axis=1)
    return pairs_of(compare(Runs(frame, "test", []), []))


def called_different(p: pd.DataFrame) -> tuple[float, float]:
    """The share of comparisons with p < 0.05, and of families with any."""
    different = p < 0.05
    return float(different.to_numpy().mean()), float(different.any().mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=4000)
    families = parser.parse_args().families
    print("| losses | folds | repeats | n | comparisons | families, Holm | sign flips | runs as independent |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for design in DESIGNS:
        pairs = simulated(design, families)
        (before, _), (_, after) = map(called_different, (pairs.p, pairs.corrected))
        flips = np.apply_along_axis(sign_flips, 1, pairs.differences[:, :, : families // 4])
        exact = "n too small" if np.isnan(flips).all() else f"{100 * (flips < 0.05).mean():.1f} %"
        naive = called_different(simulated(design, families, as_independent=True).p)[0]
        alone = f"{100 * naive:.1f} %" if design.folds else "–"
        n = pairs.differences.shape[1]
        columns = [design.losses, design.folds or "–", design.repeats, n]
        shares = [f"{100 * share:.1f} %" for share in (before, after)]
        print("|", " | ".join(map(str, [*columns, *shares, exact, alone])), "|", flush=True)


if __name__ == "__main__":
    main()
