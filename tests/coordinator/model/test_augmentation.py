"""Augmentation of images: what may happen to an image does, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import affine_transform, center_of_mass

from coordinator.model.augmentation import flip_affine, flip_shift
from crypto.arrays import AnyArray, UInt8Array


def test_views_are_mirrored_and_shifted_and_repeat_the_edge() -> None:
    image = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.repeat(image, 600, 0)
    views = flip_shift(images, np.random.default_rng(0))
    assert views.shape == images.shape and views.dtype == np.uint8 and np.array_equal(images[:1], image)
    variants = set()
    for view in views[..., 0]:
        for mirrored in (False, True):
            for down in range(-2, 3):
                for right in range(-2, 3):
                    rows = np.clip(np.arange(16) - down, 0, 15)
                    columns = np.clip(np.arange(16) - right, 0, 15)
                    variant = image[0, :, :, 0][rows[:, None], columns[::-1] if mirrored else columns]
                    if np.array_equal(view, variant):
                        variants.add((mirrored, down, right))
    assert len(variants) == 50  # every mirror and shift occurs, and nothing else does
    assert len(np.unique(views, axis=0)) == 50


class FixedDraws:
    """Draws that a test chose, in the order in which flip_affine asks for them."""

    def __init__(self, mirrored: bool, shift: tuple[float, float], turn: float, scale: float) -> None:
        self.mirrored = mirrored
        self.draws = [np.array([shift]), np.array([turn]), np.array([np.log(scale)])]

    def integers(self, *_: int) -> AnyArray:
        """Return whether the image is mirrored."""
        return np.array([int(self.mirrored)])

    def uniform(self, *_: object) -> AnyArray:
        """Return shift, turn and scale, one after the other."""
        return self.draws.pop(0)


def disc(height: int, width: int, row: float, column: float, radius: float = 4.0) -> UInt8Array:
    """Return an image [1, h, w, 1] that is black but for a disc."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - row, x - column) <= radius
    image: UInt8Array = (255 * inside).astype(np.uint8)[None, :, :, None]
    return image


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 96), (96, 48)])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("turn", "scale"), [(0.0, 1.0), (15.0, 1.0), (-10.0, 1.15), (5.0, 0.85)])
def test_an_affine_view_is_what_scipy_makes_of_the_image(
    height: int, width: int, mirrored: bool, turn: float, scale: float
) -> None:
    image = disc(height, width, 18, 30)
    shift = (0.1, -0.2)
    draws = FixedDraws(mirrored, shift, turn, scale)
    view = flip_affine(image, draws)[0, :, :, 0]  # type: ignore[arg-type]
    angle, sign = np.deg2rad(turn), -1 if mirrored else 1
    # Rows and columns of the image by those of the view, from the middle.
    matrix = (
        np.array([[np.cos(angle), np.sin(angle)], [-sign * np.sin(angle), sign * np.cos(angle)]]) / scale
    )
    middle = np.array([height - 1, width - 1]) / 2
    moved = np.array([shift[1] * height, shift[0] * width]) / 2
    offset = middle + moved - matrix @ middle
    expected = affine_transform(image[0, :, :, 0].astype(float), matrix, offset, order=1, mode="nearest")
    assert np.abs(view - expected).max() <= 1
    assert np.hypot(*np.subtract(center_of_mass(view), center_of_mass(image[0, :, :, 0]))) > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_affine_views_differ_keep_their_dtype_and_stay_within_the_bounds(dtype: type) -> None:
    images: AnyArray = np.repeat(disc(64, 64, 32, 32, 12).astype(dtype), 300, 0)
    images = np.concatenate([images, 255 - images], 3)
    views = flip_affine(images, np.random.default_rng(0))
    assert views.shape == images.shape and views.dtype == dtype
    assert len(np.unique(views, axis=0)) == 300
    assert np.abs(255 - views.astype(float).sum(3)).max() <= 1  # both colours move alike
    areas = (views[..., 0] > 127).sum((1, 2)) / (images[0, :, :, 0] > 127).sum()
    assert areas.min() > 0.84**2 and areas.max() < 1.16**2
    assert areas.min() < 0.9**2 and areas.max() > 1.1**2
    middles = np.array([center_of_mass(v) for v in views[..., 0]]) - 31.5
    assert 6 < np.abs(middles).max() < 8 * 1.16 + 2
    # A constant image stays one: what enters at an edge repeats it.
    constant: AnyArray = np.full((4, 9, 7, 3), 200, dtype)
    assert np.abs(flip_affine(constant, np.random.default_rng(1)) - 200.0).max() < 1e-3
