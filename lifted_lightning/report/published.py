"""Published numbers on the data sets of the paper, each with its source, and whether a run's protocol is theirs.

Recall is as later papers quote Oh Song, Xiang, Jegelka, Savarese (CVPR 2016); they do not tell the embedding
size. What is read off a figure of that paper is good to 0.1 (F1) and 0.05 (NMI) points.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PAPER = "Oh Song et al., CVPR 2016"
LATER = "Oh Song et al., CVPR 2017; BN-Inception"
CHECK = "Musgrave et al., ECCV 2020; BN-Inception, 4 × 128-d"


@dataclass(frozen=True)
class Published:
    """One row of a published table or figure.

    Attributes:
        loss: as our labels begin.
        values: percent, by metric.
        source: paper and network.
        embedding_size: where it is told.
        read_off: read off a figure, not printed.
    """

    loss: str
    values: Mapping[str, float]
    source: str = PAPER
    embedding_size: int | None = None
    read_off: bool = False

    @property
    def year(self) -> str:
        return self.source.partition(";")[0].rsplit(" ", 1)[1]


def _recall(loss: str, ks: tuple[int, ...], *values: float) -> Published:
    return Published(loss, {f"recall@{k}": v for k, v in zip(ks, values, strict=True)})


def _later(loss: str, ks: tuple[int, ...], nmi: float, *values: float) -> Published:
    recall = {f"recall@{k}": v for k, v in zip(ks, values, strict=True)}
    return Published(loss, {**recall, "nmi": nmi}, LATER, 64)


def _figure(loss: str, f1: tuple[float, ...], nmi: tuple[float, ...]) -> list[Published]:
    sizes = (64, 128, 256, 512)
    return [
        Published(loss, {"f1": a, "nmi": b}, PAPER, size, read_off=True)
        for size, a, b in zip(sizes, f1, nmi, strict=True)
    ]


def _check(loss: str, value: float) -> Published:
    return Published(loss, {"map@r": value}, CHECK, 512, read_off=True)


_FEW, _MANY = (1, 2, 4, 8), (1, 10, 100, 1000)
_CONTRASTIVE, _TRIPLET, _LIFTED = "Contrastive", "Triplet", "LiftedStructure"
_SEMIHARD = "Triplet (mining=semihard)"
PUBLISHED: dict[str, list[Published]] = {
    "cub200": [
        _recall(_CONTRASTIVE, _FEW, 26.4, 37.7, 49.8, 62.3),
        _recall(_TRIPLET, _FEW, 36.1, 48.6, 59.3, 70.0),
        _recall(_LIFTED, _FEW, 47.2, 58.9, 70.2, 80.2),
        _later(_SEMIHARD, _FEW, 55.38, 42.59, 55.03, 66.44, 77.23),
        _later(_LIFTED, _FEW, 56.50, 43.57, 56.55, 68.59, 79.63),
        _check(_CONTRASTIVE, 26.5),
        _check(_TRIPLET, 23.7),
    ],
    "cars196": [
        _recall(_CONTRASTIVE, (1,), 21.7),
        _recall(_TRIPLET, (1,), 39.1),
        _recall(_LIFTED, (1,), 49.0),
        _later(_SEMIHARD, _FEW, 53.35, 51.54, 63.78, 73.52, 82.41),
        _later(_LIFTED, _FEW, 56.88, 52.98, 65.70, 76.01, 84.27),
        _check(_CONTRASTIVE, 24.9),
        _check(_TRIPLET, 23.0),
    ],
    "sop": [
        _recall(_CONTRASTIVE, _MANY, 42.0, 58.2, 73.8, 89.1),
        _recall(_TRIPLET, _MANY, 42.1, 63.5, 82.5, 94.8),
        _recall(_LIFTED, _MANY, 62.1, 79.8, 91.3, 97.4),
        *_figure(_CONTRASTIVE, (8.5, 9.6, 10.3, 10.8), (82.6, 83.0, 83.2, 83.4)),
        *_figure(_TRIPLET, (14.4, 14.6, 14.4, 14.1), (84.8, 84.8, 84.8, 84.7)),
        *_figure(_LIFTED, (24.4, 24.5, 24.6, 25.7), (87.3, 87.3, 87.3, 87.5)),
        _later(_SEMIHARD, _MANY[:3], 89.46, 66.67, 82.39, 91.85),
        _later(_LIFTED, _MANY[:3], 88.65, 62.46, 80.81, 91.93),
        _check(_CONTRASTIVE, 44.4),
        _check(_TRIPLET, 43.4),
    ],
}
ANOTHER_FORM = ("smooth=false", "average=active", "squared=false", "mining=semihard", "mining=hard")
NOT_COMPARABLE = "published, other network and images: not comparable"
_PROTOCOL = {
    "model.network.init_args.trunk": "googlenet",
    "model.augment.init_args.size": 227,
    "data.size": 256,
    "data.batch_size": 128,
    "data.validation_share": 0.0,
    "trainer.max_steps": 20000,
}


def nearest(row: Published, labels: Iterable[str]) -> str | None:
    """Our label of that loss: one in the row's words, else in the paper's form, else another; None without any."""
    own = [label for label in labels if label.split(" ")[0] == row.loss.split(" ")[0]]
    return min(own, key=lambda label: (label != row.loss, any(form in label for form in ANOTHER_FORM)), default=None)


def follows_the_paper(settings: Mapping[str, Any]) -> bool:
    """Whether a run has the network, images and length of training of ``experiments/paper/protocol.yaml``."""
    return all(settings.get(key) == value for key, value in _PROTOCOL.items())
