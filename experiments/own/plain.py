"""Network, loss and data with a Trainer of one's own, as Lightning's are: python plain.py --devices=2"""

import argparse

from my_images import Shapes
from pytorch_lightning import Trainer, seed_everything

from lifted_lightning import (
    ConvNet,
    CropMirror,
    EmbeddingModule,
    LiftedStructureLoss,
    PositivePairs,
    RetrievalDataModule,
    RetrievalEvaluation,
)


def train(devices: int, steps: int) -> dict[str, float]:
    """Train on stars of few points, and evaluate on those of many; ``batch_size`` is that of all devices together.

    The data module gives each process its share of a batch, and of an evaluation: Lightning adds no sampler.
    """
    seed_everything(0)
    data = RetrievalDataModule(Shapes(), PositivePairs(), batch_size=16, size=40, channels=1)
    module = EmbeddingModule(ConvNet(embedding_size=16, width=8), LiftedStructureLoss(), CropMirror(size=36))
    evaluation = RetrievalEvaluation(baseline=False)  # what the test finds is logged, and stays in its `results`
    trainer = Trainer(accelerator="cpu", devices=devices, max_steps=steps, callbacks=[evaluation])
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data)
    return evaluation.results["test"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    print(train(arguments.devices, arguments.steps))
