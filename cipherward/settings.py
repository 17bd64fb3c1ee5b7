"""What an audit of a function measures, and checks of what the caller asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit.suite1 import ATTACKS as SUITE_ATTACKS
from coordinator.exchange.audit.suite1 import AUDIT_ROWS, DRAWS, GALLERY_IMAGES, MIN_AUDIT_ROWS, POOLS
from crypto.arrays import Images
from crypto.errors import CipherwardError, unknown
from crypto.scheme import SCHEMES, describe
from crypto.spec import SchemeSpec

Log = Callable[[str], None]
#: Sides of blocks that are tried where the caller names none, in pixels: those of the field's papers.
BLOCKS = (16, 8, 4)
#: Blocks that an image must have at least, or a side of a block is not tried.
_FEWEST_BLOCKS = 4
#: Seconds that an attack may take at one pool size. The suite's default is 600 for one key recovery; here eight of
#: them share the time.
BUDGET_S = 600.0
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
        public: Public plain images for the attacks that need some, uint8 [m, h, w, c].
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
        for name, least in (("draws", 1), ("rows", MIN_AUDIT_ROWS), ("known_pairs", 0), ("seed", 0)):
            if _whole(name, getattr(self, name)) < least:
                raise CipherwardError(f"{name}={getattr(self, name)} is too few", f"at least {least}")
        if self.budget_s <= 0:
            raise CipherwardError(
                f"budget_s={self.budget_s} leaves no attack any time", "name seconds above 0"
            )
        if self.family and self.family not in SCHEMES:
            raise unknown("scheme", self.family, SCHEMES)
        if self.name in SCHEMES and self.name != self.family:
            raise CipherwardError(
                f"{self.name} is the name of a scheme of this program",
                f"name yours otherwise, or say family={self.name!r} if it is that scheme",
            )
        self._check_attacks()

    def _check_attacks(self) -> None:
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
            CipherwardError: If no side of a block fits these images, or the settings of the family do not.
        """
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


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise CipherwardError(f"{name} cannot be {value!r:.60}", "name a whole number")
    return int(value)


def require_public(attacks: Sequence[str], public: Images | None) -> None:
    """Raise CipherwardError if one of these attacks lacks public images: it would sit idle."""
    lacking = [name for name in attacks if public is None and ATTACKS[name].tier.name == "T2"]
    if lacking:
        raise CipherwardError(
            f"{', '.join(lacking)} needs public plain images",
            "hand some over: public=IMAGES of the same shape",
        )
