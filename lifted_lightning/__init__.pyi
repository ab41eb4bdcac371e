"""The public names of the package, each once: ``lifted_lightning.NAME`` is looked up here when it is first used."""

# Use a model: a checkpoint of `lifted fit` as a TrainedModel, which embeds paths or images.
from .inference.model import TrainedModel as TrainedModel
from .inference.model import load as load

# Train, by class path from outside the package: network, loss and optimiser; a data set as batches and evaluation sets.
from .training.module import EmbeddingModule as EmbeddingModule
from .data.datamodule import RetrievalDataModule as RetrievalDataModule

# What one's own classes derive from: a data set and what it becomes, a batch sampler, an augmentation, a network, a
# metric of evaluations, and what it is given.
from .data.datasets.base import RetrievalDataset as RetrievalDataset
from .data.table import ImageTable as ImageTable
from .data.batches.base import GlobalBatchSampler as GlobalBatchSampler
from .data.augment import Augmentation as Augmentation
from .data.augment import CropMirror as CropMirror
from .training.networks import Embedder as Embedder
from .callbacks.own_metrics import EvaluationMetric as EvaluationMetric
from .metrics.collection import Evaluation as Evaluation

# Batch samplers: the paper's text, and its released code.
from .data.batches.balanced import PositivePairs as PositivePairs
from .data.batches.released import ReleasedPairs as ReleasedPairs

# Networks, losses (of embeddings (B, D) and labels (B,); any nn.Module of that kind will do), a schedule.
from .training.networks import ConvNet as ConvNet
from .training.networks import EmbeddingNetwork as EmbeddingNetwork
from .losses import ContrastiveLoss as ContrastiveLoss
from .losses import LiftedStructureLoss as LiftedStructureLoss
from .losses import TripletLoss as TripletLoss
from .training.schedules import WarmupCosine as WarmupCosine

# Evaluation: as a callback of a Trainer; retrieval metrics (also as a metric of torchmetrics), metrics of a clustering,
# exact nearest neighbours.
from .callbacks.evaluation import RetrievalEvaluation as RetrievalEvaluation
from .metrics import clustering_metrics as clustering_metrics
from .metrics import nearest as nearest
from .metrics.collection import RetrievalMetrics as RetrievalMetrics
from .metrics import retrieval_metrics as retrieval_metrics

# Raised for a mistake in what the user gave, with one line that says what to do.
from .errors import UserError as UserError

__version__: str
