"""The embedded source: procedural head scans whose class shows in the local texture of the tissue alone.

It lets everything run with no data set at hand, and every plain picture of it may be shown. An image
is a head on a black background: a bright skull, fluid under it, two dark ventricles, tissue with fibres,
and one lesion. Place, shape, shading and the fibres' phase are drawn anew for each image; the class is
the direction the fibres run in. What the class must not leak into is taken out by construction:

* every image of a size has exactly the same histogram, so no classifier on values beats chance;
* the fibres are a random field of zero mean and random phase, so no linear model on pixels finds them.

The fibres' period grows with the square root of the side, as a ViT's usual patch does (8 at 64, 16 at
224), so a patch sees about one period at any size. A flip or a quarter turn changes the class: train
without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import fft, ndimage

from crypto.errors import CipherwardError, unknown

#: The direction the fibres run in: left-right, up to the right, up-down, down to the right.
CLASSES = ["level", "rising", "upright", "falling"]
SPLITS = ["train", "val", "test"]
MIN_SIZE = 16  # below it the skull is thinner than a pixel

_HEAD = 0.54  # share of the image's pixels that belong to the head, in every image
_PERIOD = 1.25  # fibre period in pixels over the square root of the side
_SPREAD = 0.25  # lobe width over the fibres' frequency: the smaller, the straighter and longer the fibres
_TURN = math.radians(6.0)  # standard deviation of the fibres' direction
# Quantiles of the head's gray values: fluid, then tissue, then bone. Shared by all images.
_RANKS = (0.0, 0.05, 0.10, 0.14, 0.46, 0.78, 0.86, 0.90, 1.0)
_GRAYS = (14.0, 26.0, 40.0, 62.0, 104.0, 146.0, 172.0, 206.0, 250.0)


@dataclass(frozen=True)
class Phantom:
    """`count` pictures of `size`×`size`×`channels` (1 or 3), of one of three independent streams.

    Picture and label of a row depend on (seed, split, row) alone, never on `count`.
    Raises CipherwardError for a size, a number of channels, a seed or a split that cannot be.
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
        return self.count

    @property
    def classes(self) -> list[str]:
        """The class names, by label."""
        return list(CLASSES)

    @property
    def names(self) -> list[str]:
        """One name a row, such as phantom-train-00012."""
        return [f"phantom-{self.split}-{row:05d}" for row in range(self.count)]

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [count], read-only. Each run of four rows holds every class once, in a random order."""
        groups = -(-self.count // len(CLASSES))
        order = self._generator(0).random((groups, len(CLASSES))).argsort(axis=1)
        labels = order.reshape(-1)[: self.count].astype(np.int64)
        labels.setflags(write=False)
        return labels

    def fingerprint(self) -> str:
        """Everything that the images depend on."""
        return f"phantom {self.size} {self.channels} {self.count} {self.seed} {self.split}"

    def read(self, row: int) -> np.ndarray:
        """uint8 [size, size, channels]: the picture of a row; raises IndexError outside 0..count-1."""
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        gray = _draw(self.size, int(self.labels[row]), self._generator(1, row))
        return gray[..., None] if self.channels == 1 else _TINT[gray]

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS.index(self.split), *stream])


def _tint() -> np.ndarray:
    """uint8 [256, 3]: a fixed smooth colour map from black to white, warm in between."""
    gray = np.linspace(0.0, 1.0, 256)[:, None]
    return np.rint(255 * gray ** np.array([0.85, 1.0, 1.15])).astype(np.uint8)


_TINT = _tint()


def _draw(size: int, label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [size, size]: one gray picture of a class."""
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y = line[None, :], line[:, None]  # y downwards
    u, v = _turned(x - rng.uniform(-0.03, 0.03), y - rng.uniform(-0.03, 0.03), rng.normal(0.0, 0.12))

    # The head holds exactly _HEAD of the pixels, whatever its outline: the histogram has to come out equal.
    root = rng.uniform(0.91, 0.97)  # of width over height
    wobble = sum(rng.normal(0.0, 0.008) * f for f in _harmonics(u, v))
    radius = np.sqrt((u / root) ** 2 + (v * root) ** 2) / (1 + wobble)
    inner = np.argsort(radius, axis=None, kind="stable")[: round(_HEAD * size * size)]
    depth = 1 - radius / radius.flat[inner[-1]]  # 0 at the rim, 1 in the middle

    fibres = _fibres(size, label * math.pi / 4 + rng.normal(0.0, _TURN), rng)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 0.7, truncate=3.0)
    shade = _shade(line, rng)
    tissue = fibres + 0.6 * grain + 0.6 * shade + rng.uniform(-1.2, 1.2) * depth

    # One lesion, brighter or darker than the tissue around it, its fibres stronger.
    where, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.23)
    p, q = _turned(u - far * math.cos(where), v - far * math.sin(where), rng.uniform(0, math.pi))
    lesion = _edge(rng.uniform(0.05, 0.10) - np.hypot(p, q * rng.uniform(1.0, 1.5)), 0.02)
    tissue += lesion * (0.3 * fibres + (2.4 if rng.random() < 0.5 else -2.4))

    # Two ventricles, mirror images but for a little, each a slanted ellipse; and fluid under the skull.
    gap, slant, long = rng.uniform(0.045, 0.06), rng.uniform(0.15, 0.45), rng.uniform(0.09, 0.14)
    fluid = _edge(0.032 - np.abs(depth - 0.135), 0.02)
    for side in (-1, 1):
        p, q = _turned(side * u - gap, v - rng.normal(0.0, 0.01), slant)
        fluid = np.maximum(fluid, _edge(1 - np.hypot(p / rng.uniform(0.022, 0.034), q / long), 0.35))
    bone = _edge(0.10 - depth, 0.02)

    level = tissue * (1 - fluid) - 6.0 * fluid
    level = level * (1 - bone) + (7.0 + 0.3 * shade + 0.3 * grain) * bone
    return _ranked(level, inner)


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates in a frame turned by `angle` radians."""
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _edge(inside: np.ndarray, width: float) -> np.ndarray:
    """[0, 1]: a soft step, 1 where `inside` is well above 0, over about `width`."""
    return np.asarray(np.clip(inside / width + 0.5, 0.0, 1.0))


def _harmonics(u: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
    """Sines and cosines of 2 and 3 times the angle around the middle, float32 [size, size] each."""
    far = np.sqrt(u**2 + v**2) + 1e-9
    c, s = u / far, v / far
    return [c * c - s * s, 2 * c * s, c * (4 * c * c - 3), s * (3 - 4 * s * s)]


def _shade(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size]: uneven light, four slow waves of random direction and phase, unit variance."""
    k, m, phase = rng.uniform(-math.pi, math.pi, (3, 4, 1)).astype(np.float32)
    down, along = np.exp(1j * (4 * m * line + phase)), np.exp(4j * k * line)  # complex64 [4, size]
    return np.asarray((down.T @ along).real * 0.5**0.5)


def _fibres(size: int, angle: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, size]: fibres along `angle` (counterclockwise from level), zero mean, unit variance.

    White noise through a pair of Gaussian lobes at the fibres' frequency: every phase is equally likely.
    """
    frequency = 1 / (_PERIOD * size**0.5)  # cycles a pixel
    y, x = frequency * math.cos(angle), frequency * math.sin(angle)
    fy, fx = fft.fftfreq(size), fft.rfftfreq(size)
    lobes = np.outer(_lobe(fy - y, frequency), _lobe(fx - x, frequency))
    lobes += np.outer(_lobe(fy + y, frequency), _lobe(fx + x, frequency))
    noise = rng.standard_normal((size, size), np.float32)
    field = fft.irfft2(fft.rfft2(noise) * lobes, s=(size, size))
    return np.asarray((field - field.mean()) / field.std())


def _lobe(away: np.ndarray, frequency: float) -> np.ndarray:
    """float32: the Gaussian weight of a frequency that lies `away` from the fibres' own."""
    return np.exp(-0.5 * (away / (_SPREAD * frequency)) ** 2).astype(np.float32)


def _ranked(level: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: the pixels `inner` given the reference gray values by rank of `level`, the rest 0.

    Equal levels are ordered by distance from the head's middle (the order of `inner`).
    """
    share = (np.arange(len(inner)) + 0.5) / len(inner)
    grays = np.rint(np.interp(share, _RANKS, _GRAYS)).astype(np.uint8)
    image = np.zeros(level.shape, np.uint8)
    image.flat[inner[np.argsort(level.flat[inner], kind="stable")]] = grays
    return image
