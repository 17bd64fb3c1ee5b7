"""report.json: what a report holds, as typed records. `coordinator/report/build.py` makes them from scores."""

from __future__ import annotations

from pydantic import Field

from coordinator.exchange.audit.rates import LinkableRate, Rate
from coordinator.exchange.audit.scores import UTC_TIME, AttackedBy, ClassRates, Finding, Role, Summary
from coordinator.exchange.records import Record
from coordinator.exchange.update_attack import UpdateAttack

SCHEMA = "cipherward.audit/1"
#: The study's name in a report that was made without a study.
NO_STUDY = "audit"


class Control(Record):
    """The result of one control.

    Attributes:
        ok: Whether it passed.
        message: What was observed, in words.
    """

    ok: bool
    message: str = Field(validation_alias="said", serialization_alias="said")


#: All controls of an audit, by name.
Controls = dict[str, Control]


class JudgedFinding(Finding):
    """A finding with its draw, its baselines and what it breaks.

    Attributes:
        draw: The draw's name.
        broken_by: Which of K, R and V break the scheme in this draw.
        broken: Whether any of them does.
        readable_by: By which of R and V the second look finds pictures in the negative, turned or shifted.
        baseline_ssim: Median SSIM that is reached without any attack, by the baseline's name.
    """

    draw: str
    broken_by: tuple[str, ...]
    broken: bool
    readable_by: tuple[str, ...] = ()
    baseline_ssim: dict[str, float]


class Verdict(Record):
    """The verdict over all draws, by the rule that the report names.

    Attributes:
        broken: Whether an attack breaks the scheme.
        broken_by: The attacks that do, the smallest pool first.
        broken_at: The smallest pool size at which each of them does.
        smallest_pool: The smallest of these sizes; None where nothing breaks the scheme.
        largest_pool: The largest pool size at which any attack ran to its end in every draw; 0 if none did.
        finished_at: The pool sizes at which each attack ran to its end in every draw.
        pool_attacked: Whether an attack that uses a pool ran to its end.
        of_training: Attacks on a training, which are judged by the draws of the training's own key.
        seconds: Median time of the attacks that break at the smallest pool.
        draws: How many draws there were.
        draws_needed: In how many of them a break must show.
        linkable: Whether ciphertexts name their own image without a key; None where that was not measured.
        linkable_draws: In how many draws they do.
        readable: Whether guesses show pictures in the negative, turned or (suite/2) shifted, by the second look;
            None where that was not measured. Under suite/1 it is no break, under suite/2 it is one.
        readable_at: The smallest pool size at which each of these attacks shows them.
        uncertain_at: The pool sizes at which an attack neither breaks the scheme nor can be said to have failed:
            what it found fits too poorly in too many draws.
    """

    broken: bool
    broken_by: tuple[str, ...]
    broken_at: dict[str, int]
    smallest_pool: int | None
    largest_pool: int
    finished_at: dict[str, tuple[int, ...]]
    pool_attacked: bool
    of_training: tuple[str, ...]
    seconds: float | None
    draws: int
    draws_needed: int
    linkable: bool | None = None
    linkable_draws: int = 0
    readable: bool | None = None
    readable_at: dict[str, int] = Field(default_factory=dict)
    uncertain_at: dict[str, tuple[int, ...]] = Field(default_factory=dict)


class ReportDraw(Record):
    """What a report says about one draw, besides its findings; the fields are those of `DrawScores`."""

    draw: str
    set_name: str = Field(validation_alias="set", serialization_alias="set")
    rows: int
    gallery: int
    baselines: dict[str, Summary]
    linkable: LinkableRate | None = None
    classified: ClassRates | None = None
    second_looks: int | None = None
    role: Role | None = None


class SchemeFacts(Record):
    """The audited scheme.

    Attributes:
        version: Its version; 0 for a scheme from outside this program, for which no attack was written.
        formula_bits: log2 of the number of keys that the scheme's formula claims.
        effective_bits: The same for a secret key of 32 bytes.
        kept: What was seen to stay of an image in its ciphertext, in words, where the scheme is none of this program.
        noise_sigma: Standard deviation in gray levels of the noise that no shared key takes off; 0 where there is
            none.
        is_invertible: Whether the key opens its ciphertexts.
        options: The scheme's options: a verdict is about them, too. None in reports of earlier versions, and for a
            scheme from outside this program.
    """

    name: str
    version: int
    image_shape: tuple[int, int, int]
    block: int
    key_scope: str
    formula_bits: float
    effective_bits: float
    kept: str | None = None
    noise_sigma: float = 0.0
    is_invertible: bool = True
    options: dict[str, str | int | float | bool] | None = None

    @property
    def options_text(self) -> str:
        """The options in words: mask=independent; "" without any, or where they are not recorded."""
        return ", ".join(f"{name}={value}" for name, value in sorted((self.options or {}).items()))


class PoolFacts(Record):
    """The pool of sealed images: their number, plain shape (height, width, channels) and number of hospitals."""

    images: int
    shape: tuple[int, int, int]
    parties: int


class Signer(Record):
    """Who signed the scores that a report was made of.

    Attributes:
        identity: The public identity, as one line.
        fingerprint: Its fingerprint, which people compare over another channel.
        signature: The signature, base64.
        scores_sha256: Digest of what the signature covers: all of scores.json but the signature.
    """

    identity: str
    fingerprint: str
    signature: str
    scores_sha256: str


class Machine(Record):
    """The machine that wrote the report."""

    cores: int
    memory_gib: float
    system: str


class Round(Record):
    """One round of a training: validation and training figures, traffic in bytes, and who took part.

    `clipped` holds how many times the round's median the norm of an update was that max_update_norm cut.
    """

    round: int
    val_accuracy: float | None = None
    val_auc: float | None = None
    val_loss: float | None = None
    train_loss: float | None = None
    seconds: float | None = None
    bytes_down: int | None = None
    bytes_up: int | None = None
    parties: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    clipped: dict[str, float] = Field(default_factory=dict)


class PartyTest(Record):
    """The test of one party: accuracy, AUC and how many images."""

    party: str
    accuracy: float
    auc: float | None
    n: int


class PlainTraining(Record):
    """The same training on plain images: test accuracy, validation accuracy by round, and its time."""

    accuracy: Rate
    rounds: tuple[float, ...] = ()
    seconds: float | None = None


class WrongKeys(Record):
    """Test accuracy under wrong keys: each, their mean, and the bounds of the mean."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]


class ClassTable(Record):
    """Precision and recall of each class; None where a class has no case."""

    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]


class CalibrationBin(Record):
    """One bin of a calibration: its images, and their mean accuracy and confidence; None in an empty bin."""

    count: int
    accuracy: float | None
    confidence: float | None


class Calibration(Record):
    """The expected calibration error and its bins."""

    ece: float
    bins: tuple[CalibrationBin, ...] = ()


class PromisedPrivacy(Record):
    """What the plan promised of the hospitals' updates: differential privacy.

    Attributes:
        epsilon: The bound over all rounds.
        delta: The probability that it does not hold.
        unit: What it protects: a patient or an image.
        accountant: How noise and bound were computed.
        max_grad_norm: The norm that each unit's gradient was scaled down to.
        outside: What the bound does not cover.
    """

    epsilon: float
    delta: float
    unit: str
    accountant: str
    max_grad_norm: float
    outside: tuple[str, ...]


class SummedUpdates(Record):
    """Secure aggregation of a training's updates.

    Attributes:
        rounds: Aggregated rounds in which the cloud learnt a sum only.
        least: The least number of hospitals in a sum.
        clipped_share: The largest mean share of values of a round that hospitals clipped before they were summed.
    """

    rounds: int
    least: int
    clipped_share: float


class Training(Record):
    """The training section of a report. Figures that an earlier version did not keep are None.

    Attributes:
        engine: What ran the hospitals: "processes" or "ray" in `simulate`, or "flwr run".
        privacy: Differential privacy of the updates; None without.
        sums: Secure aggregation of the updates; None without.
        kept_updates: Rounds of which the plan keeps what the cloud received.
        update_attack: What an attack on the kept updates found; None if none was made.
        rounds: The rounds whose updates were aggregated.
        best_round: The round whose model was tested, chosen on validation images.
        test: Test accuracy of all parties together.
        confusion: Test images by their class (rows) and the class that the model named (columns).
        absent_from_test: Parties that did not answer with test figures.
        test_refused: Why the test figures of a party do not count, by its name.
        plain: The same training on plain images.
        wrong_key: Test accuracy under wrong keys.
        linear_accuracy: A linear model on plain pixels, without a ViT.
        histogram_accuracy: The nearest neighbour on plain histograms, without a ViT.
    """

    model: str | None = None
    weights: str | None = None
    stem: str | None = None
    strategy: str | None = None
    share: str | None = None
    wire: str | None = None
    augment: str | None = None
    engine: str | None = None
    privacy: PromisedPrivacy | None = None
    sums: SummedUpdates | None = None
    kept_updates: int | None = None
    update_attack: UpdateAttack | None = None
    classes: tuple[str, ...] | None = None
    rounds: tuple[Round, ...] = ()
    best_round: int | None = None
    test_accuracy: float | None = None
    test_auc: float | None = None
    test: Rate | None = None
    per_party: tuple[PartyTest, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    per_class: ClassTable | None = None
    calibration: Calibration | None = None
    absent_from_test: tuple[str, ...] = ()
    test_refused: dict[str, str] = Field(default_factory=dict)
    plain: PlainTraining | None = None
    plain_accuracy: float | None = None
    wrong_key: WrongKeys | None = None
    linear_accuracy: float | None = None
    histogram_accuracy: float | None = None


class Report(Record):
    """The whole of report.json.

    Attributes:
        created: UTC time at which this file was written, ISO 8601.
        suite: The rule that the verdict follows: "suite/1" or "suite/2".
        budget_s: Seconds that an attack had at one pool size.
        rows_asked: How many audit images were asked for, half of which are scored; None where the scores do not say,
            as the next.
        gallery_asked: How many plain images a guess could name at most.
        versions: Versions of Python and the packages that figures depend on.
        key_ids: Of the audited draws; an id tells keys apart and reveals none.
        scorer: The hospital that scored.
        training: None where nothing was trained.
        valid: Whether every control passed. An invalid report has no verdict.
        doubts: Where the audit falls short of what the suite asks for.
        attacked_by: Who ran the attacks; None where that was not recorded.
        signer: Who signed the scores; None where they are unsigned.
        scored_at: UTC time at which the hospital scored, ISO 8601, as its signature covers it; None where the scores
            do not say.
        scored_with: The version of this program that scored.
        defects: What is wrong with the scheme whatever an attack finds, one sentence each: it ignores its key, or
            leaves images plain. Each of them counts as a break.
    """

    schema_id: str = Field(default=SCHEMA, validation_alias="schema", serialization_alias="schema")
    created: str
    study: str
    seed: int
    suite: str
    budget_s: float | None = None
    rows_asked: int | None = Field(default=None, ge=1)
    gallery_asked: int | None = Field(default=None, ge=1)
    versions: dict[str, str]
    machine: Machine
    scheme: SchemeFacts
    key_ids: tuple[str, ...]
    pool: PoolFacts
    scorer: str
    training: Training | None
    controls: Controls
    valid: bool
    doubts: tuple[str, ...]
    draws: tuple[ReportDraw, ...]
    findings: tuple[JudgedFinding, ...]
    verdict: Verdict
    attacked_by: AttackedBy | None = None
    signer: Signer | None = None
    scored_at: str | None = Field(default=None, pattern=UTC_TIME)
    scored_with: str | None = None
    defects: tuple[str, ...] = ()

    @property
    def failed_controls(self) -> list[str]:
        """The names of the controls that failed."""
        return [name for name, control in self.controls.items() if not control.ok]
