"""The contract of augmentations: each planted fault is found by its question, and ours have none."""

import pytest
import torch

from lifted_lightning.data.augment import Affine, CropMirror, ResizedCrop, draw
from lifted_lightning.testing import check_augment


class DrawsByItself(CropMirror):
    def transform(self, images, draws):
        return super().transform(images, torch.rand_like(draws))


class OneDrawForAll(CropMirror):
    def transform(self, images, draws):
        return super().transform(images, draws[:1].expand_as(draws))


class ByTheBatch(CropMirror):
    def transform(self, images, draws):
        return super().transform(images, draws) - images.float().mean()


class InPlace(CropMirror):
    def transform(self, images, draws):
        return super().transform(images.bitwise_not_(), draws)


class OneKeyForAll(CropMirror):
    def draw(self, key, global_batch):
        return draw((0,), global_batch)


class OneViewForAll(CropMirror):
    def draw(self, key, global_batch):
        return draw(key[:3], global_batch)


class NotFinite(CropMirror):
    def transform(self, images, draws):
        return super().transform(images, draws) / 0.0


class OtherSize(CropMirror):
    def transform(self, images, draws):
        return super().transform(images, draws)[:, :, 1:]


class EvaluatesAtRandom(CropMirror):
    def centre(self, images):
        return super().centre(images) * torch.rand(())


IMAGES = "gives finite images of one size, and leaves those given as they are"
ITSELF = "draws nothing but what it is given, and nothing in evaluation"
VARIES = "other images, steps, epochs, seeds and views are drawn otherwise"
FAULTS = {
    DrawsByItself: ITSELF, EvaluatesAtRandom: ITSELF, OneDrawForAll: VARIES, OneKeyForAll: VARIES,
    OneViewForAll: VARIES, ByTheBatch: "an image is the same whatever else is in the batch or on another rank",
    InPlace: IMAGES, NotFinite: IMAGES, OtherSize: IMAGES,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault):
    assert FAULTS[fault] in [finding.question for finding in check_augment(fault(24), size=32).failed]


SOUND = [
    CropMirror(112), CropMirror(), CropMirror(mirror=False), CropMirror([20, 12]), ResizedCrop(24, colour_jitter=0.4),
    Affine(24, mirror=True), Affine(),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", SOUND, ids=repr)
def test_ours_pass(augment, channels):
    assert not check_augment(augment, channels).failed
