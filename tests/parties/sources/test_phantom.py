"""The embedded source: reproducible, one histogram for all images, and its class only in local structure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from parties.sources.phantom import CLASSES, Phantom

DEMO = 64
Labelled = tuple[AnyArray, AnyArray]  # pictures and labels


@pytest.fixture(scope="module", autouse=True)
def drawn_anew() -> Iterator[None]:
    """Draw every phantom here. Other tests share those that were drawn before (tests/conftest.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phantom, "read", vars(Phantom.read)["__wrapped__"])
        yield


def pictures(source: Phantom) -> AnyArray:
    """uint8 [n, size, size]: the first channel of every picture."""
    return np.stack([source.read(row)[..., 0] for row in range(len(source))])


@pytest.fixture(scope="module")
def train() -> Labelled:
    source = Phantom(DEMO, 1, 800, 5, "train")
    return pictures(source), source.labels


@pytest.fixture(scope="module")
def unseen() -> Labelled:
    source = Phantom(DEMO, 1, 400, 5, "test")
    return pictures(source), source.labels


@pytest.mark.parametrize("size", [16, 28, 50, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type(size: int, channels: int) -> None:
    image = Phantom(size, channels, 3, 0, "val").read(2)
    assert image.shape == (size, size, channels)
    assert image.dtype == np.uint8
    assert image.max() > 200
    assert not image[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # the corners lie outside any head


def test_a_row_depends_on_seed_split_and_row_alone() -> None:
    few, many = Phantom(28, 1, 9, 3, "train"), Phantom(28, 1, 50, 3, "train")
    assert many.labels[:9].tolist() == few.labels.tolist()
    assert np.array_equal(many.read(7), few.read(7))
    assert np.array_equal(few.read(7), few.read(7))


def test_rows_seeds_and_splits_differ() -> None:
    sources = [Phantom(28, 1, 12, seed, split) for seed in (0, 1) for split in ("train", "val", "test")]
    seen = {source.read(row).tobytes() for source in sources for row in range(12)}
    assert len(seen) == 6 * 12
    assert len({tuple(source.labels) for source in sources}) == 6


def test_labels_are_balanced_and_shuffled() -> None:
    source = Phantom(28, 1, 402, 0, "train")
    assert source.labels.dtype == np.int64
    assert sorted(np.bincount(source.labels, minlength=4).tolist()) in ([100, 100, 101, 101],)
    assert source.labels.tolist() != (np.arange(402) % 4).tolist()
    assert source.classes == CLASSES
    assert len(source) == len(source.names) == 402
    assert source.names[12] == "phantom-train-00012"


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_has_the_same_histogram(size: int, channels: int) -> None:
    source = Phantom(size, channels, 40, 1, "train")
    images = np.stack([source.read(row) for row in range(40)]).reshape(40, -1, channels)
    ranked = np.sort(images, axis=1)
    assert (ranked == ranked[0]).all()
    assert len(np.unique(ranked[0, :, 0])) > 100


def test_three_channels_are_a_tint_of_the_gray_picture() -> None:
    gray = Phantom(64, 1, 1, 2, "train").read(0)[..., 0]
    color = Phantom(64, 3, 1, 2, "train").read(0)
    for channel in range(3):
        order = np.argsort(gray, axis=None, kind="stable")
        assert (np.diff(color[..., channel].reshape(-1)[order].astype(int)) >= 0).all()
    assert not np.array_equal(color[..., 0], color[..., 2])


@pytest.mark.slow
def test_a_linear_model_on_pixels_does_not_find_the_class(train: Labelled, unseen: Labelled) -> None:
    model = LogisticRegression(C=0.001, max_iter=60)
    model.fit(train[0].reshape(800, -1) / 255.0 - 0.5, train[1])
    assert model.score(unseen[0].reshape(400, -1) / 255.0 - 0.5, unseen[1]) <= 0.40


@pytest.mark.long
def test_histograms_do_not_tell_the_class(train: Labelled, unseen: Labelled) -> None:
    def histograms(images: AnyArray) -> AnyArray:
        return np.stack([np.bincount(image.reshape(-1), minlength=256) for image in images])

    nearest = KNeighborsClassifier(1).fit(histograms(train[0]), train[1])
    assert nearest.score(histograms(unseen[0]), unseen[1]) <= 0.35


def test_local_structure_tells_the_class(train: Labelled, unseen: Labelled) -> None:
    def slopes(images: AnyArray) -> AnyArray:
        """Return the orientation of the gray values' slopes in the middle of the head, float [n, 2]."""
        inner = np.clip(images[:, 14:-14, 14:-14].astype(float), 80, 170)  # less of the ventricles
        down, along = np.gradient(gaussian_filter(inner, (0, 1.5, 1.5)), axis=(1, 2))
        level, rising = down**2 - along**2, 2 * down * along
        means: AnyArray = np.stack([level.mean((1, 2)), rising.mean((1, 2))], 1)
        return means / float((down**2 + along**2).mean())

    model = LogisticRegression(C=100.0).fit(slopes(train[0]), train[1])
    assert model.score(slopes(unseen[0]), unseen[1]) >= 0.9


@pytest.mark.parametrize("size", [64, 224])
def test_neighbours_are_alike_and_far_pixels_are_not(size: int) -> None:
    images = pictures(Phantom(size, 1, 12, 4, "val"))[:, size // 4 : -size // 4, size // 4 : -size // 4]

    def correlation(step: int) -> float:
        return float(np.corrcoef(images[:, :, step:].reshape(-1), images[:, :, :-step].reshape(-1))[0, 1])

    assert correlation(1) > 0.7
    assert abs(correlation(size // 4)) < 0.4


@pytest.mark.parametrize(
    ("size", "channels", "count", "seed", "split"),
    [(8, 1, 1, 0, "train"), (64, 2, 1, 0, "train"), (64, 1, -1, 0, "train"), (64, 1, 1, -1, "train"),
     (64, 1, 1, 0, "all")],
)  # fmt: skip
def test_impossible_settings_are_refused(
    size: int, channels: int, count: int, seed: int, split: str
) -> None:
    with pytest.raises(CipherwardError):
        Phantom(size, channels, count, seed, split)


def test_rows_outside_are_refused() -> None:
    source = Phantom(28, 1, 4, 0, "test")
    for row in (-1, 4):
        with pytest.raises(IndexError):
            source.read(row)
