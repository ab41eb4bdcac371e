"""The contract of augmentations: each planted fault is found by its question, and ours have none."""

import pytest
import torch

from lifted_lightning.data.augment import Affine, CropMirror, ResizedCrop, draw
from lifted_lightning.testing import check_augment

crop, centre = CropMirror.transform, CropMirror.centre
IMAGES = "gives finite images of one size, and leaves those given as they are"
ITSELF = "draws nothing but what it is given, and nothing in evaluation"
APART = "an image is the same whatever else is in the batch or on another rank"
VARIES = "other images, steps, epochs, seeds and views are drawn otherwise"
FAULTS = {
    "not finite": ({"transform": lambda self, x, draws: crop(self, x, draws) / 0.0}, IMAGES),
    "another size": ({"transform": lambda self, x, draws: crop(self, x, draws)[:, :, 1:]}, IMAGES),
    "in place": ({"transform": lambda self, x, draws: crop(self, x.bitwise_not_(), draws)}, IMAGES),
    "draws by itself": ({"transform": lambda self, x, draws: crop(self, x, torch.rand_like(draws))}, ITSELF),
    "draws of no key": ({"draw": lambda self, key, global_batch: torch.rand(global_batch, 8)}, ITSELF),
    "evaluates at random": ({"centre": lambda self, x: centre(self, x) * torch.rand(())}, ITSELF),
    "by the batch": ({"transform": lambda self, x, draws: crop(self, x, draws) - x.float().mean()}, APART),
    "one draw for all": ({"transform": lambda self, x, draws: crop(self, x, draws[:1].expand_as(draws))}, VARIES),
    "one key for all": ({"draw": lambda self, key, global_batch: draw((0,), global_batch)}, VARIES),
    "one view for all": ({"draw": lambda self, key, global_batch: draw(key[:3], global_batch)}, VARIES),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name):
    methods, question = FAULTS[name]
    faulty = type("Faulty", (CropMirror,), methods)(24)
    assert question in [finding.question for finding in check_augment(faulty, size=32).failed]


SOUND = [
    CropMirror(112), CropMirror(), CropMirror(mirror=False), CropMirror([20, 12]), ResizedCrop(24, colour_jitter=0.4),
    Affine(24, mirror=True), Affine(),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", SOUND, ids=repr)
def test_ours_pass(augment, channels):
    assert not check_augment(augment, channels).failed
