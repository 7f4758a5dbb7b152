"""Tasks of the experiments: sizes, targets, and images that tasks share."""

from __future__ import annotations

import pytest
import torch

from rsn2 import data as datasets
from rsn2.experiments import tasks
from rsn2.experiments.exp8 import SharedImages


def test_resized_images():
    images = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16).expand(3, 3, 16, 16).contiguous()
    assert tasks.resized(images, 16) is images
    smaller = tasks.resized(images, 8)
    assert smaller.shape == (3, 3, 8, 8) and smaller.dtype == torch.uint8
    means = images.float().reshape(3, 3, 8, 2, 8, 2).mean((3, 5))
    assert (smaller[..., 1:-1, 1:-1].float() - means[..., 1:-1, 1:-1]).abs().max() <= 1
    flat = torch.full((2, 1, 5, 5), 77, dtype=torch.uint8)
    assert torch.equal(tasks.resized(flat, 9), torch.full((2, 1, 9, 9), 77, dtype=torch.uint8))


def test_one_logit_targets_are_floats(tiny_data):
    reviews = tasks.imdb(50, 12).load(tiny_data)
    assert reviews.train.x.shape == (40, 12) and int(reviews.train.x.max()) < 50
    assert reviews.train.y.shape == (40, 1) and reviews.train.y.dtype == torch.float32
    assert sorted(reviews.train.y.unique().tolist()) == [0, 1]


def test_some_classes_are_numbered_anew(tiny_data):
    part = tasks.fashion_classes((7, 2)).load(tiny_data).train
    assert len(part) == 40 and sorted(part.y.unique().tolist()) == [0, 1]
    rows = part.x[part.y == 0].float().mean((0, 1, 3))
    assert int(rows.argmax()) == 2 * 7 + 3  # the bright row of class 7


@pytest.mark.parametrize("scaled, largest", [(True, 1.0), (False, 255.0)])
def test_pixels(scaled, largest):
    transform = tasks.digits(scaled=scaled).transform
    assert transform(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).max() == largest


def test_shared_images_are_the_same_tensor_for_the_same_rows():
    images = SharedImages(torch.arange(60, dtype=torch.uint8).reshape(5, 3, 2, 2))
    rows = torch.tensor([3, 1])
    first = images[rows]
    assert torch.equal(first, images.images[rows].float() / 255)
    assert images[rows.clone()] is first
    assert images[torch.tensor([1, 3])] is not first
    assert images[0:2] is images[0:2] and len(images[0:2]) == 2
    assert images.subset(slice(1, 4)) is images.subset(slice(1, 4)) and len(images.subset(slice(1, 4))) == 3
    assert torch.equal(images.subset(torch.tensor([4]))[0:1], images[4:5])


def test_pixels_of_colour_images():
    assert tasks.cifar10(28, pixels="raw").transform is tasks.raw_pixels
    assert tasks.cifar10(28).transform is tasks.unit_pixels
    images = torch.tensor([[0, 255], [128, 7]], dtype=torch.uint8).expand(2, 3, 2, 2)
    found = tasks.cifar10(28, pixels="standardised").transform(images)
    for channel, (mean, deviation) in enumerate(zip(tasks.CIFAR_MEAN, tasks.CIFAR_DEVIATION, strict=True)):
        torch.testing.assert_close(found[:, channel], (images[:, channel] / 255 - mean) / deviation)


def test_mean_and_deviation_are_those_of_the_training_images(real_data):
    pixels = datasets.load_cifar10(real_data("cifar10")).train.x.double().div(255)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(tasks.CIFAR_MEAN).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(tasks.CIFAR_DEVIATION).double(), atol=2e-4, rtol=0)
