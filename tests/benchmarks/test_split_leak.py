"""The benchmark of leaks between splits: planted near-duplicates are counted, and the page shows them."""

from __future__ import annotations

import numpy as np

from benchmarks.pages.split_leak import split_leak
from benchmarks.split_leak import compared_images, measure
from coordinator.model.training import PlainImages
from tests.support.pictures import smooth


def test_planted_near_duplicates_are_counted_and_told_apart() -> None:
    images, labels = smooth(60, 64, 64), np.arange(60) % 3
    noise = np.random.default_rng(0).normal(0, 2, (8, 64, 64, 1))
    copies = np.clip(images[:8] + noise, 0, 255).astype(np.uint8)
    test = PlainImages(
        np.concatenate([copies, images[40:]]), np.concatenate([labels[:7], [labels[7] + 1], labels[40:]])
    )
    figures = measure(PlainImages(images[:40], labels[:40]), test)
    assert (figures["near"], figures["near_of_its_class"]) == (8, 7)
    assert (figures["nearest"]["n"], figures["nearest_of_others"]["n"]) == (28, 20)
    assert figures["nearest"]["hits"] == 7 + figures["nearest_of_others"]["hits"]
    text = "\n".join(split_leak({"rows": [{"data": "mri", "side": 64, **figures}]}))
    assert "| brain MRI, 64×64 | 40 | 28 | 8 | 7 |" in text


def test_what_is_measured_are_the_images_that_the_protocols_train_on() -> None:
    images = compared_images()
    assert ("cifar", 32, (10000, 1000, 2000)) in images and ("cifar", 224, (10000, 1000, 2000)) in images
    assert ("mri", 224, (0, 0, 0)) in images and len(set(images)) == len(images)
