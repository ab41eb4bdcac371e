"""A metric of one's own.

lifted fit --config ../quickstart.yaml --evaluation.metrics+=my_metric.HubnessRate \
  --best_checkpoint.monitor=validation/hubs@10 --best_checkpoint.mode=min
"""

import torch

from lifted_lightning import Evaluation, EvaluationMetric


class HubnessRate(EvaluationMetric):
    """How unevenly images are found: those that are among the neighbours of very many others are hubs.

    Radovanović, Nanopoulos and Ivanović, *Hubs in Space*, JMLR 2010. Let N be the number of queries that have an image
    among their k nearest. ``hubs@k`` is the share of images whose N is above ``times`` the mean, ``hub_skewness@k`` the
    skewness of N (0 where it is symmetrical), ``never_found@k`` the share with N = 0. Of all images, queries that are
    not searched included.

    Args:
        neighbours: k.
        times: what makes a hub.
    """

    def __init__(self, neighbours: int = 10, times: float = 3.0) -> None:
        self.neighbours = neighbours  # so many are looked for
        self.times = times

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """The three, of one evaluation: numbers by name, the same names each time."""
        nearest = evaluation.ranking.nearest[:, : self.neighbours]  # (Q, k) items; -1 where there are no more
        found = torch.bincount(nearest[nearest >= 0], minlength=len(evaluation)).cpu().double()  # N of each image
        apart = (found - found.mean()) / found.std(correction=0)
        return {
            f"hubs@{self.neighbours}": float((found > self.times * found.mean()).double().mean()),
            f"hub_skewness@{self.neighbours}": float(apart.pow(3).mean()),
            f"never_found@{self.neighbours}": float((found == 0).double().mean()),
        }
