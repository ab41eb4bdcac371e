"""Groups of the optimiser of one's own: lifted fit --config ../quickstart.yaml --model=my_groups.SlowBatchNorm"""

from typing import Any

from torch import nn

from lifted_lightning import EmbeddingModule


class SlowBatchNorm(EmbeddingModule):
    """Scales and shifts of batch normalisation learn at a tenth of the rate, without weight decay; all else as it does.

    Optimiser and schedule are those of the command line, and a run goes on exactly.
    """

    def parameter_groups(self) -> list[tuple[dict[str, Any], float]]:
        """The usual groups without those parameters, and one of them: each with a factor of the learning rate."""
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        slow = {id(p) for layer in layers for p in layer.parameters()}
        groups = super().parameter_groups()
        taken = [p for group, _ in groups for p in group["params"] if id(p) in slow]
        for group, _ in groups:
            group["params"] = [p for p in group["params"] if id(p) not in slow]
        return [*groups, ({"params": taken, "name": "batchnorm", "weight_decay": 0.0}, 0.1)]
