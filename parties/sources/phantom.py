"""The embedded source: procedural head scans whose class shows only in the local texture of the tissue.

With this source everything runs without a data set, and every plain picture may be shown. An image is a head on a
black background: a bright skull, fluid under it, two dark ventricles, tissue with fibres, and one lesion. Position,
shape, shading and the phase of the fibres are drawn anew for each image. The class is the direction of the fibres.
By construction the class does not leak in two ways:

* every image of a size has exactly the same histogram, so no classifier on values beats chance;
* the fibres are a random field of zero mean and random phase, so no linear model on pixels finds them.

The period of the fibres grows with the square root of the side, like the usual patch of a ViT (8 at 64, 16 at 224),
so a patch sees about one period at any size. A flip or a quarter turn changes the class: train without them.

The constants below were set once, by hand. Tests check that local structure shows the class, and that histograms and
a linear model on pixels do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from crypto.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from crypto.errors import CipherwardError, unknown
from parties.sources.catalog import FileStates

#: Direction of the fibres: left-right, up to the right, up-down, down to the right.
CLASSES = ["level", "rising", "upright", "falling"]
SPLITS = ["train", "val", "test"]
#: Smallest side in pixels. Below it the skull is thinner than a pixel.
MIN_SIZE = 16

_HEAD_SHARE = 0.54  # share of the image's pixels that belong to the head, in every image
_PERIOD = 1.25  # fibre period in pixels over the square root of the side
_SPREAD = 0.25  # lobe width over the fibres' frequency: a smaller one makes straighter and longer fibres
_DIRECTION_SPREAD = math.radians(6.0)  # standard deviation of the fibres' direction
# Quantiles of the head's gray values: fluid, then tissue, then bone. Shared by all images.
_RANKS = (0.0, 0.05, 0.10, 0.14, 0.46, 0.78, 0.86, 0.90, 1.0)
_GRAYS = (14.0, 26.0, 40.0, 62.0, 104.0, 146.0, 172.0, 206.0, 250.0)


@dataclass(frozen=True)
class Phantom:
    """`count` pictures of `size`×`size`×`channels` (1 or 3), from one of three independent streams.

    Picture and label of a row depend only on (seed, split, row), never on `count`.

    Raises:
        CipherwardError: If a size, number of channels, count, seed or split is not possible.
    """

    size: int
    channels: int
    count: int
    seed: int
    split: str
    public: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown("split", self.split, SPLITS)
        if self.size < MIN_SIZE or self.channels not in (1, 3) or min(self.count, self.seed) < 0:
            raise CipherwardError(
                f"no phantom of size {self.size} with {self.channels} channels, count {self.count}"
                f" and seed {self.seed}",
                f"size is at least {MIN_SIZE}, channels 1 or 3, count and seed at least 0",
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return self.count

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""
        return list(CLASSES)

    @property
    def names(self) -> list[str]:
        """One name for each row, such as phantom-train-00012."""
        return [f"phantom-{self.split}-{row:05d}" for row in range(self.count)]

    @cached_property
    def labels(self) -> Int64Array:
        """int64 [count], read-only. Each group of four rows holds every class once, in a random order."""
        groups = -(-self.count // len(CLASSES))
        order = self._generator(0).random((groups, len(CLASSES))).argsort(axis=1)
        labels = order.reshape(-1)[: self.count].astype(np.int64)
        labels.setflags(write=False)
        return labels

    def fingerprint(self) -> str:
        """Return a text of everything that the images depend on."""
        return f"phantom {self.size} {self.channels} {self.count} {self.seed} {self.split}"

    def states(self) -> FileStates:
        """Return nothing: there are no files."""
        return {}

    def content(self) -> str:
        """Return nothing: there are no files."""
        return ""

    def read(self, row: int) -> UInt8Array:
        """Return the picture of a row, uint8 [size, size, channels]. Raises IndexError outside 0..count-1."""
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        gray = _draw_scan(self.size, int(self.labels[row]), self._generator(1, row))
        picture: UInt8Array = gray[..., None] if self.channels == 1 else _TINT[gray]
        return picture

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS.index(self.split), *stream])


def _make_tint() -> UInt8Array:
    """Return a fixed smooth colour map from black to white, warm in between, uint8 [256, 3]."""
    gray = np.linspace(0.0, 1.0, 256)[:, None]
    tint: UInt8Array = np.rint(255 * gray ** np.array([0.85, 1.0, 1.15])).astype(np.uint8)
    return tint


_TINT = _make_tint()


def _draw_scan(size: int, label: int, rng: np.random.Generator) -> UInt8Array:
    """Return one gray picture of a class, uint8 [size, size]."""
    from scipy import ndimage  # it loads for 0.2 s, and most commands draw no phantom

    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y = line[None, :], line[:, None]  # y points downwards
    u, v = _rotate(x - rng.uniform(-0.03, 0.03), y - rng.uniform(-0.03, 0.03), rng.normal(0.0, 0.12))
    head, depth = _draw_head(u, v, rng)

    fibres = _draw_fibres(size, label * math.pi / 4 + rng.normal(0.0, _DIRECTION_SPREAD), rng)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 0.7, truncate=3.0)
    shade = _draw_shade(line, rng)
    tissue = fibres + 0.6 * grain + 0.6 * shade + rng.uniform(-1.2, 1.2) * depth
    tissue += _draw_lesion(u, v, fibres, rng)

    fluid = _draw_fluid(u, v, depth, rng)
    bone = _soft_step(0.10 - depth, 0.02)
    level = tissue * (1 - fluid) - 6.0 * fluid
    level = level * (1 - bone) + (7.0 + 0.3 * shade + 0.3 * grain) * bone
    return _assign_grays(level, head)


def _draw_head(u: AnyArray, v: AnyArray, rng: np.random.Generator) -> tuple[Int64Array, AnyArray]:
    """Return the flat indices of the head's pixels, from the middle outwards, and the depth of every pixel.

    Whatever its outline, the head holds exactly _HEAD_SHARE of the pixels: all histograms must be equal. The depth is
    0 at the rim and 1 in the middle.
    """
    root = rng.uniform(0.91, 0.97)  # square root of width over height
    wobble = sum(rng.normal(0.0, 0.008) * f for f in _harmonics(u, v))
    radius = np.sqrt((u / root) ** 2 + (v * root) ** 2) / (1 + wobble)
    head = np.argsort(radius, axis=None, kind="stable")[: round(_HEAD_SHARE * radius.size)]
    return head, 1 - radius / radius.flat[head[-1]]


def _draw_lesion(u: AnyArray, v: AnyArray, fibres: Float32Array, rng: np.random.Generator) -> AnyArray:
    """Return what one lesion adds to the tissue: brighter or darker than its surroundings, with stronger fibres."""
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.23)
    p, q = _rotate(u - distance * math.cos(angle), v - distance * math.sin(angle), rng.uniform(0, math.pi))
    lesion = _soft_step(rng.uniform(0.05, 0.10) - np.hypot(p, q * rng.uniform(1.0, 1.5)), 0.02)
    added: AnyArray = lesion * (0.3 * fibres + (2.4 if rng.random() < 0.5 else -2.4))
    return added


def _draw_fluid(u: AnyArray, v: AnyArray, depth: AnyArray, rng: np.random.Generator) -> AnyArray:
    """Return where fluid is, in [0, 1]: under the skull, and in two ventricles.

    The ventricles are slanted ellipses, and almost mirror images of each other.
    """
    gap, slant, height = rng.uniform(0.045, 0.06), rng.uniform(0.15, 0.45), rng.uniform(0.09, 0.14)
    fluid = _soft_step(0.032 - np.abs(depth - 0.135), 0.02)
    for side in (-1, 1):
        p, q = _rotate(side * u - gap, v - rng.normal(0.0, 0.01), slant)
        ventricle = _soft_step(1 - np.hypot(p / rng.uniform(0.022, 0.034), q / height), 0.35)
        fluid = np.maximum(fluid, ventricle)
    return fluid


def _rotate(x: AnyArray, y: AnyArray, angle: float) -> tuple[AnyArray, AnyArray]:
    """Return the coordinates in a frame rotated by `angle` radians."""
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _soft_step(inside: AnyArray, width: float) -> AnyArray:
    """Return a soft step in [0, 1] of about this width: 1 where `inside` is well above 0."""
    return np.asarray(np.clip(inside / width + 0.5, 0.0, 1.0))


def _harmonics(u: AnyArray, v: AnyArray) -> list[AnyArray]:
    """Return sines and cosines of 2 and 3 times the angle around the middle, float32 [size, size] each."""
    radius = np.sqrt(u**2 + v**2) + 1e-9
    c, s = u / radius, v / radius
    return [c * c - s * s, 2 * c * s, c * (4 * c * c - 3), s * (3 - 4 * s * s)]


def _draw_shade(line: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return uneven light, float32 [size, size]: four slow waves of random direction and phase, unit variance."""
    k, m, phase = rng.uniform(-math.pi, math.pi, (3, 4, 1)).astype(np.float32)
    down, along = np.exp(1j * (4 * m * line + phase)), np.exp(4j * k * line)  # complex64 [4, size]
    return np.asarray((down.T @ along).real * 0.5**0.5)


def _draw_fibres(size: int, angle: float, rng: np.random.Generator) -> Float32Array:
    """Return fibres along `angle`, float32 [size, size], with zero mean and unit variance.

    The angle is counterclockwise from horizontal. White noise passes through two Gaussian lobes at the fibres'
    frequency, so every phase is equally likely.
    """
    from scipy import fft

    frequency = 1 / (_PERIOD * size**0.5)  # cycles per pixel
    y, x = frequency * math.cos(angle), frequency * math.sin(angle)
    fy, fx = fft.fftfreq(size), fft.rfftfreq(size)
    lobes = np.outer(_lobe(fy - y, frequency), _lobe(fx - x, frequency))
    lobes += np.outer(_lobe(fy + y, frequency), _lobe(fx + x, frequency))
    noise = rng.standard_normal((size, size), np.float32)
    field = fft.irfft2(fft.rfft2(noise) * lobes, s=(size, size))
    return np.asarray((field - field.mean()) / field.std())


def _lobe(offset: AnyArray, frequency: float) -> Float32Array:
    """Return the Gaussian weight, float32, of a frequency at this offset from the fibres' frequency."""
    return np.exp(-0.5 * (offset / (_SPREAD * frequency)) ** 2).astype(np.float32)


def _assign_grays(level: AnyArray, head: Int64Array) -> UInt8Array:
    """Return an image, uint8 [h, w]: the head's pixels get the reference gray values by rank of `level`, the rest 0.

    Pixels of equal level are ordered by distance from the head's middle (the order of `head`).
    """
    share = (np.arange(len(head)) + 0.5) / len(head)
    grays = np.rint(np.interp(share, _RANKS, _GRAYS)).astype(np.uint8)
    image = np.zeros(level.shape, np.uint8)
    image.flat[head[np.argsort(level.flat[head], kind="stable")]] = grays
    return image
