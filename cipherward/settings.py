"""What an audit of a function measures, and checks of what the caller asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit.suite1 import ATTACKS as SUITE_ATTACKS
from coordinator.exchange.audit.suite1 import AUDIT_ROWS, DRAWS, GALLERY_IMAGES, MIN_AUDIT_ROWS, POOLS
from coordinator.exchange.settings import MAX_SEED
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError, unknown
from crypto.plural import agreeing, counted
from crypto.scheme import SCHEMES, describe
from crypto.spec import SchemeSpec

Log = Callable[[str], None]
#: The least value of each setting that is a whole number.
_LEAST = {"draws": 1, "rows": MIN_AUDIT_ROWS, "gallery": 2, "known_pairs": 0, "seed": 0, "block": 1}
#: Sides of blocks that are tried where the caller names none, in pixels: those of the field's papers.
BLOCKS = (16, 8, 4)
#: Blocks that an image must have at least, or a side of a block is not tried.
_FEWEST_BLOCKS = 4
#: Seconds that an attack may take at one pool size. The suite's default is 600 for one key recovery; here all that
#: are tried on an unknown scheme share the time.
BUDGET_S = 600.0
#: Least side of an image, in pixels: that of the made pictures of the controls.
LEAST_SIDE = 8
#: Bytes of a key that the audit draws, unless the caller's function takes others.
KEY_BYTES = 32


@dataclass(frozen=True)
class Settings:
    """What is measured; `suite1` has the meanings of what is the suite's.

    Attributes:
        sizes: Pool sizes, rising.
        draws: Draws of key and pool.
        rows: Audit images of a draw; half of them are scored.
        gallery: Plain images that a guess can name.
        attacks: Names of attacks.
        family: The scheme of this program that the audited one is a form of; empty where none is known. Its own key
            recovery is run then, and its orbit granted; else every key recovery is tried, and every move granted.
        options: The family's options.
        key_scope: The family's key scope.
        block: Side of a block in pixels; None for those of `BLOCKS`, or the largest of them if there is a family.
        public: Public plain images for the attacks that need some, uint8 [m, h, w, c]. A caller may
            name their folder or .npy file.
        known_pairs: Pairs of plain images and ciphertexts that an attack is given besides; 0 for no such attack.
        chosen_plaintext: Whether an attack may have images of its choice encrypted besides.
        budget_s: Seconds that an attack may take at one pool size.
        seed: Draws rows and pools. Keys are never drawn from it.
        name: The scheme's name in the report.
        claimed_bits: log2 of the key space that the scheme claims; None for the bits of the keys that are drawn.
        log: Called with a line of progress.
    """

    sizes: tuple[int, ...] = POOLS
    draws: int = DRAWS
    rows: int = AUDIT_ROWS
    gallery: int = GALLERY_IMAGES
    attacks: tuple[str, ...] = SUITE_ATTACKS
    family: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    key_scope: str = "consortium"
    block: int | None = None
    public: Images | None = None
    known_pairs: int = 0
    chosen_plaintext: bool = False
    budget_s: float = BUDGET_S
    seed: int = 0
    name: str = ""
    claimed_bits: float | None = None
    log: Log = lambda _: None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(sorted({_whole("sizes", size) for size in self.sizes})))
        if not self.sizes or self.sizes[0] < 1:
            raise CipherwardError(
                f"sizes {list(self.sizes)} are no pool sizes",
                "name whole numbers from 1 on, such as (1, 10, 100)",
            )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "block" and value is None:
                continue
            object.__setattr__(self, name, _whole(name, value))
            if getattr(self, name) < least:
                raise CipherwardError(f"{name}={value} is too few", f"at least {least}")
        if self.seed > MAX_SEED:
            raise CipherwardError(f"seed={self.seed} is too large", f"at most {MAX_SEED}")
        if not (_is_number(self.budget_s) and 0 < self.budget_s < math.inf):
            raise CipherwardError(
                f"budget_s={self.budget_s!r:.60} leaves no attack any time", "name seconds above 0"
            )
        object.__setattr__(self, "budget_s", float(self.budget_s))
        claimed = self.claimed_bits
        if claimed is not None and not (_is_number(claimed) and 0 <= claimed < math.inf):
            raise CipherwardError(
                f"claimed_bits={claimed!r:.60} is no key space", "log2 of the number of keys, such as 128"
            )
        if not callable(self.log):
            raise CipherwardError(
                f"log={self.log!r:.60} cannot be called", "leave it out, or name a function such as print"
            )
        if not isinstance(self.chosen_plaintext, bool):
            raise CipherwardError(
                f"chosen_plaintext cannot be {self.chosen_plaintext!r:.60}", "True or False"
            )
        if not isinstance(self.name, str) or not self.name.isprintable():
            raise CipherwardError(f"name={self.name!r:.60} is no name", "one line of text")
        self._check_scheme()
        self._check_attacks()

    def _check_scheme(self) -> None:
        if not isinstance(self.options, Mapping):
            raise CipherwardError(
                f"options={self.options!r:.60} are no options", "name them: options={'sub_block': 4}"
            )
        if not isinstance(self.family, str):
            raise CipherwardError(f"family={self.family!r:.60} is no name", "name one scheme as a text")
        if self.family and self.family not in SCHEMES:
            raise unknown("scheme", self.family, SCHEMES)
        if not self.family and (self.options or self.key_scope != "consortium"):
            raise CipherwardError(
                "options and key_scope are a family's, and none is named", "name it too: family='etc'"
            )
        require_own_name(self.name, self.family)

    def _check_attacks(self) -> None:
        if not all(isinstance(name, str) for name in self.attacks):
            raise CipherwardError(f"attacks={self.attacks!r:.60} are no names", "name each as a text")
        if len(set(self.attacks)) < len(self.attacks):
            raise CipherwardError("an attack is named twice", "name each once")
        for name in self.attacks:
            if name not in ATTACKS:
                raise unknown("attack", name, ATTACKS)
            if not ATTACKS[name].in_suite or ATTACKS[name].study:
                raise CipherwardError(
                    f"{name} is no attack on ciphertexts alone: it needs {ATTACKS[name].needs}",
                    "pairs are known_pairs=N and chosen_plaintext=True, and are told apart from the verdict",
                )
        if not self.attacks:
            raise CipherwardError("no attack is named", f"those of the suite: {', '.join(SUITE_ATTACKS)}")

    @property
    def images_of_draw(self) -> int:
        """How many images of the caller's a draw takes at most."""
        return 2 * self.rows + max(self.sizes)

    def specs(self, shape: tuple[int, int, int], *, is_real: bool = False) -> list[SchemeSpec]:
        """Return the schemes that the attacks are told: the family, or a stand-in with each side of a block.

        The first one is that of the report. An unknown scheme's ciphertexts have the form of those of its stand-in,
        and nothing else of it is used: bytes that of `plain`, real numbers that of `orthogonal`.

        Args:
            shape: Of the images.
            is_real: Whether ciphertexts are float32.

        Raises:
            CipherwardError: If these images are too small, or no side of a block or setting of the family fits them.
        """
        if min(shape[:2]) < LEAST_SIDE:
            raise CipherwardError(
                f"images of {shape[0]}×{shape[1]} are too small",
                f"the controls beside them need sides of at least {LEAST_SIDE} pixels",
            )
        name = self.family or ("orthogonal" if is_real else "plain")
        sides = self._sides(shape)
        if self.family:
            return [describe(name, shape, sides[0], self.key_scope, self.options)]
        return [describe(name, shape, side) for side in sides]

    def _sides(self, shape: tuple[int, int, int]) -> list[int]:
        if self.block is not None:
            return [self.block]
        height, width, _ = shape
        fitting = [
            side
            for side in BLOCKS
            if not (height % side or width % side) and height * width // side**2 >= _FEWEST_BLOCKS
        ]
        if not fitting:
            raise CipherwardError(
                f"blocks of {', '.join(map(str, BLOCKS))} pixels do not divide images of {height}×{width}",
                "name the side of the scheme's blocks: block=N",
            )
        return fitting


def require_own_name(name: str, family: str) -> None:
    """Raise CipherwardError if a scheme has the name of one of this program, and is not of that family.

    A report would be taken for one on the program's own scheme.

    Args:
        name: The scheme's name: the caller's, or that of the function.
        family: The scheme of this program that it is a form of; empty where none is known.
    """
    if name in SCHEMES and name != family:
        raise CipherwardError(
            f"{name} is the name of a scheme of this program",
            f"name yours otherwise (name='my-{name}'), or say family={name!r} if it is that scheme",
        )


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise CipherwardError(f"{name} cannot be {value!r:.60}", "name a whole number")
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def require_public(attacks: Sequence[str], public: Images | None, plain: Images) -> Images | None:
    """Return the public images as uint8 [m, h, w, c]; None without any.

    Args:
        attacks: Names of attacks.
        public: What the caller handed over.
        plain: The images that are audited, uint8 [n, h, w, c].

    Raises:
        CipherwardError: If one of these attacks lacks public images, or they are no images of that shape: the attack
            would sit idle. If some of them are audited: the attack would be told what it has to find.
    """
    shape = plain.shape[1:]
    lacking = [name for name in attacks if ATTACKS[name].tier.name == "T2"]
    if public is None:
        if lacking:
            raise CipherwardError(
                f"{', '.join(lacking)} needs public plain images",
                "hand some over: public=IMAGES of the same shape",
            )
        return None
    if not lacking:
        raise CipherwardError(
            "public images were handed over, and no attack that is named uses them",
            "name one that does, such as attacks=('moment_matching',), or leave them out",
        )
    try:
        images: AnyArray = np.asarray(public)
    except ValueError:  # lists of several lengths
        images = np.empty(0)
    images = images[..., None] if images.ndim == 3 and shape[2] == 1 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise CipherwardError(
            f"the public images are {images.dtype} {list(images.shape)}, and the audited ones uint8 of {list(shape)}",
            "bring them to the same shape and to bytes",
        )
    # Images of one value, such as the last slices of a scan, are alike everywhere, and no guess about one counts.
    audited = {image.tobytes() for image in plain if np.ptp(image)}
    same = sum(image.tobytes() in audited for image in images)
    if same:
        raise CipherwardError(
            f"{same} of {counted(len(images), 'public image')} {agreeing(same, 'is', 'are')} among the audited ones",
            "hand over images that an adversary may have, and none of those that it attacks",
        )
    return np.ascontiguousarray(images)
