"""scores.json: what a hospital says about the guesses of an adversary. Written in the hospital, read in the cloud.

The letters K, R and V are the names of the suite for its three measures (docs/suite.md):

- K, `key_opening`: how well the recovered key opens audit images;
- R, `reidentified`: how many guesses name their own image in a gallery of plain images;
- V, `visible`: how many guesses show more of their image than every baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from coordinator.exchange.audit.control_sets import PREFIX
from coordinator.exchange.audit.rates import (
    GalleryRate,
    LinkableRate,
    Rate,
    SearchedGalleryRate,
    SearchedRate,
)
from coordinator.exchange.records import Record, SpecField

SCHEMA = "cipherward.scores/1"
#: A time as files state it.
UTC_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"
#: Who ran the attacks: the hospital that scored (`cipherward-party audit`), a cloud, a simulation, which is both, or
#: the audit as a library (cipherward/), where whoever encrypts also attacks and scores.
AttackedBy = Literal["hospital", "cloud", "simulation", "library"]
#: What a set of the audited scheme is, which the cloud is not told: sealed under the hospital's own key, under a
#: throwaway key, or under a throwaway key and attacked by the hospital as well.
Role = Literal["own_key", "throwaway", "blind_control"]


class Summary(Record):
    """A figure over the scored rows. There is no percentile and no maximum: they would speak of one image."""

    median: float


class ChosenMove(Record):
    """The one element of the scheme's orbit that fits the guesses best, in whole blocks; see `Move`."""

    turn: int
    negative: bool
    order: int
    down: int
    across: int


class KeyOpening(Record):
    """How a recovered key opens audit images (K).

    Attributes:
        median_ssim: Median SSIM of the opened images.
        n: How many images were opened.
        opens: Whether the median, in three digits, reaches the threshold of the suite.
    """

    median_ssim: float
    n: int
    opens: bool


class Grid(Record):
    """How a recovered key assembles blocks: the measures of jigsaw puzzles (Cho et al. 2010, Gallagher 2012).

    Attributes:
        direct: Dc, the share of blocks in their place, up to one whole-block shift.
        neighbour: Nc, the share of adjacent places whose blocks are adjacent in the image.
        largest: Lc, the share of blocks in the largest part that such pairs connect.
    """

    direct: float = Field(validation_alias="Dc", serialization_alias="Dc")
    neighbour: float = Field(validation_alias="Nc", serialization_alias="Nc")
    largest: float = Field(validation_alias="Lc", serialization_alias="Lc")


class KeyShare(Record):
    """How much of the true key a recovered one holds, up to one whole-block shift.

    Attributes:
        block_order: Share of K1 that is right up to the shift.
        block_order_unshifted: Share of K1 that is right as it is.
        shift: The shift, in blocks down and across.
        pixel_order: Share of K2 that is right.
        neighbours: Adjacent blocks that were put side by side, and all pairs of adjacent blocks.
        identifiable: Share of block places that are not constant in every gallery image.
        bits_left: log2 of the orders that stay open if the wrong entries were known.
    """

    block_order: float
    block_order_unshifted: float
    shift: tuple[int, int]
    pixel_order: float
    neighbours: tuple[int, int]
    identifiable: float
    bits_left: float


class SecondLook(Record):
    """What a guess shows at best in the negative, turned, mirrored or shifted, whatever the scheme's orbit grants.

    A person who looks at pictures needs no such grant. The bounds are corrected for the search. Under suite/2 it
    counts as the first look does. Under suite/1 it had no shifts, and stood beside the verdict.

    Attributes:
        visible: V under the one look that fits the rows that register.
        reidentified: R under it.
        reidentified_deranged: The same guesses scored as if they were about the next row's image.
        turn: The chosen look's turn (crypto/symmetry.py); None where every image has its own key, and its own look.
        negative: Whether it is a negative.
        order: Its order of colours, of those that the declared orbit grants; None under suite/1 as well.
        down: How many blocks it is shifted down; None under suite/1 as well, which looked at no shifts.
        across: How many blocks it is shifted to the right.
    """

    visible: SearchedRate = Field(validation_alias="V", serialization_alias="V")
    reidentified: SearchedGalleryRate = Field(validation_alias="R", serialization_alias="R")
    reidentified_deranged: SearchedGalleryRate = Field(
        validation_alias="R_deranged", serialization_alias="R_deranged"
    )
    turn: int | None
    negative: bool | None
    order: int | None = None
    down: int | None = None
    across: int | None = None

    @property
    def move(self) -> ChosenMove | None:
        """The chosen move; None where every image has its own, or the file does not state it whole."""
        parts = (self.turn, self.negative, self.order, self.down, self.across)
        if None in parts:
            return None
        return ChosenMove.model_validate({name: getattr(self, name) for name in ChosenMove.model_fields})


class Figures(Record):
    """What one guess reached in one draw, over the rows that are scored.

    Attributes:
        n: How many rows have texture, so that their SSIM is defined.
        visible: V, rows on which the guess beats every baseline.
        reidentified: R, guesses that name their own image in the gallery.
        reidentified_deranged: The same guesses scored as if they were about the next row's image.
        move: The registering move; None where every image has its own key, and its own move.
        ssim: SSIM of guess and plain image; None where the guesses say nothing (`degenerate`).
        psnr: PSNR in dB.
        derangement_ssim: SSIM of each guess with other rows' images.
        classified: Guesses whose nearest plain image is of the right class.
        key_opening: K; None where no key was recovered.
        grid: Assembled blocks, for throwaway keys only.
        values_right: Share of pixel values that the key puts right, for throwaway keys only.
        key: Shares of the key that are right, for throwaway keys only.
        second_look: What it shows in the negative, turned or shifted; None if not measured, or if the orbit holds it.
        degenerate: Why there are no figures, where the guesses are flat or repeat one picture.
    """

    n: int
    visible: Rate = Field(validation_alias="V", serialization_alias="V")
    reidentified: GalleryRate = Field(validation_alias="R", serialization_alias="R")
    reidentified_deranged: GalleryRate | None = Field(
        default=None, validation_alias="R_deranged", serialization_alias="R_deranged"
    )
    move: ChosenMove | None = None
    ssim: Summary | None = None
    psnr: Summary | None = None
    derangement_ssim: Summary | None = None
    classified: Rate | None = None
    key_opening: KeyOpening | None = Field(default=None, validation_alias="K", serialization_alias="K")
    grid: Grid | None = None
    values_right: float | None = None
    key: KeyShare | None = None
    second_look: SecondLook | None = None
    degenerate: str = ""


_FIGURE_NAMES = frozenset(
    name for field, info in Figures.model_fields.items() for name in (field, info.validation_alias or field)
)


class Finding(Record):
    """One attack at one pool size in one draw, and its figures.

    In the file the figures stand beside the other fields; a crashed attack has none.

    Attributes:
        attack: The attack's name.
        tier: What it needs, T0 to T5.
        uses_pool: Whether it uses a pool of sealed images.
        pool_size: How many sealed images it was given.
        seconds: How long it took, on one thread.
        note: What it says about its own run.
        error: Why it crashed; empty where it did not.
        idle: Whether it found nothing that it could try. That says nothing about a scheme's strength.
        fit: How well what it found explains what it measured, in words; empty where it does not say.
        uncertain: Whether that is too poor to believe. A failure then says nothing about a scheme's strength.
        confidence: How far the attack believes what it found, 0 to 1, on one scale for all attacks (docs/suite.md):
            below .5 where it is uncertain. None where it does not say, did not attack or crashed.
        figures: What the guesses reached; None where the attack crashed.
    """

    attack: str
    tier: str
    uses_pool: bool
    pool_size: int
    seconds: float = Field(ge=0)
    note: str
    error: str
    idle: bool = False
    fit: str = ""
    uncertain: bool = False
    confidence: float | None = None
    figures: Figures | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the attack ran to its end: it did not crash, time out, or return the ciphertext untried."""
        return not (self.error or "truncated" in self.note or self.idle)

    @property
    def cell(self) -> str:
        """The attack and its pool size, in words."""
        return f"{self.attack} at {self.pool_size}"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of the file, where the figures stand beside the other fields."""
        outer = handler(core)
        own = handler.resolve_ref_schema(outer)
        figures = handler.resolve_ref_schema(handler(Figures.__pydantic_core_schema__))
        if own["properties"].pop("figures", None):
            own["properties"].update(figures["properties"])
            # A crashed attack has none of them.
            own["dependentRequired"] = dict.fromkeys(figures["required"], figures["required"])
        return outer

    @model_validator(mode="before")
    @classmethod
    def _gather_figures(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "figures" in value or _FIGURE_NAMES.isdisjoint(value):
            return value
        own = {name: item for name, item in value.items() if name not in _FIGURE_NAMES}
        return {**own, "figures": {name: value[name] for name in value if name in _FIGURE_NAMES}}

    @model_serializer(mode="wrap")
    def _flatten_figures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        figures: dict[str, Any] | None = fields.pop("figures", None)
        return {**fields, **(figures or {})}


class ClassRates(Record):
    """Images of which a classifier of plain images tells the class: shown plain, and shown as ciphertext."""

    plain: Rate
    ciphertext: Rate


class DrawScores(Record):
    """The scores of one draw: one sealed set under one key.

    Attributes:
        draw: The draw's name in the guesses.
        set_name: The sealed set's name in the hospital.
        spec: The scheme.
        key_id: Tells keys apart and reveals none.
        set_digest: Digest of the sealed set.
        pool_images: How many sealed images the cloud held.
        parties: How many hospitals sealed them.
        rows: How many rows were scored.
        gallery: How many plain images a guess could name.
        pictured: Rows of the draw that a report shows.
        tolerance: Largest error of the scheme's own round trip, in gray levels.
        true_key_ssim: Median SSIM of the scored rows, opened with the true key; None if no key opens the scheme.
        true_key_exact: Whether the true key opens every one of them within the tolerance; if no key opens the
            scheme, whether it seals their plain images to the very ciphertexts, up to rounding.
        baselines: SSIM that is reached without any attack, by the baseline's name.
        linkable: Ciphertexts that name their own image without any key; None where that was not measured.
        classified: What a classifier of plain images tells.
        second_looks: How many looks the second look adds to the orbit: 1 if it holds them all, None if the second
            look was not measured.
        findings: One for each attack and pool size.
        role: What the set is, where the cloud was not told; None where the set's name says it.
        hospital_run: The same attacks on a blind control, run by the hospital itself.
    """

    draw: str
    set_name: str = Field(validation_alias="set", serialization_alias="set")
    spec: SpecField
    key_id: str
    set_digest: str
    pool_images: int
    parties: int
    rows: int
    gallery: int
    pictured: tuple[int, ...]
    tolerance: float = 0.0
    true_key_ssim: float | None
    true_key_exact: bool
    baselines: dict[str, Summary]
    linkable: LinkableRate | None = None
    classified: ClassRates | None = None
    second_looks: int | None = None
    findings: tuple[Finding, ...]
    role: Role | None = None
    hospital_run: tuple[Finding, ...] = ()

    @property
    def is_control(self) -> bool:
        """Whether the draw is about a control set: one whose answer is known beforehand, or a blind control."""
        return self.set_name.startswith(PREFIX) or self.is_blind_control

    @property
    def is_blind_control(self) -> bool:
        """Whether the hospital attacked this draw of the audited scheme as well, and the cloud was not told."""
        return self.role == "blind_control"

    def of(self, attack: str) -> list[Finding]:
        """Return the findings of one attack."""
        return [finding for finding in self.findings if finding.attack == attack]


class Scores(Record):
    """The whole of scores.json.

    Attributes:
        suite: The rule by which the guesses were scored.
        party: The hospital that scored them.
        guesses_sha256: Digest of guesses.json, which was frozen before the scoring.
        seed: The seed of rows and pools.
        budget_s: Seconds that an attack had at one pool size, as the cloud states it.
        rows_asked: How many audit images the hospital asked for, half of which are scored; a draw may have fewer.
            None in scores of earlier versions, as the next.
        gallery_asked: How many plain images a guess could name at most.
        draws: The scored draws, controls included.
        attacked_by: Who ran the attacks; None where that was not recorded.
        scored_at: UTC time of the line in the hospital's ledger, ISO 8601, so that the same question asked again has
            the same answer; None in scores of earlier versions, as the next.
        scored_with: The version of this program that scored.
        images_public: Whether the hospital's images are of a public source: only then may a report show them, and be
            read by everybody; None in scores of earlier versions.
        identity: The public identity of the hospital that signed, as one line; None in unsigned scores.
        signature: Its signature, base64, over all other fields (exchange/audit/signature.py).
    """

    schema_id: str = Field(default=SCHEMA, validation_alias="schema", serialization_alias="schema")
    suite: str
    party: str
    guesses_sha256: str = ""
    seed: int
    budget_s: float | None = None
    rows_asked: int | None = Field(default=None, ge=1)
    gallery_asked: int | None = Field(default=None, ge=1)
    draws: tuple[DrawScores, ...]
    attacked_by: AttackedBy | None = None
    scored_at: str | None = Field(default=None, pattern=UTC_TIME)
    scored_with: str | None = None
    images_public: bool | None = None
    identity: str | None = None
    signature: str | None = None

    @property
    def audited(self) -> list[DrawScores]:
        """The draws of the audited scheme, without the controls."""
        return [draw for draw in self.draws if not draw.is_control]
