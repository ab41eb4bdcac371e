"""pytest, in this folder."""

import torch
from centre_loss import CentreMemory


def test_near_the_centre_of_its_own_class_an_image_costs_little() -> None:
    labels = torch.arange(8) % 4
    loss = CentreMemory(num_classes=4, embedding_size=4)
    assert loss(torch.eye(4)[labels], labels) < 0.01 < loss(torch.eye(4)[labels.flip(0)], labels)
