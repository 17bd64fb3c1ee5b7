"""The plan of a study: one flat YAML file, read into one frozen object that everybody works from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from coordinator.exchange.settings import Settings, build, read_yaml
from crypto.errors import CipherwardError
from crypto.files import write_text
from crypto.scheme import describe
from crypto.spec import SchemeSpec

FILE = "plan.yaml"
# Schemes that treat all blocks of an image alike: a ViT's stem can be carried into their key's coordinates.
CARRIED = ("block_pixel_shuffle", "orthogonal", "plain", "value_shuffle")
_SET_BY_THE_STUDY = {
    *("num_classes", "in_chans", "img_size", "features_only", "checkpoint_path"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
}
# Part of the name of every Vision Transformer of timm's; what else has such a name is found out when it is built.
_VITS = ("vit", "deit", "aimv2", "beit3", "eva_large")


class Plan(Settings):
    """Every setting of a study. Paths are the only thing a user must fill in."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(0, ge=0)

    # who takes part, and which images each holds
    parties: int = Field(3, ge=1)
    source: str = "phantom"
    images: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)
    image_size: int = Field(224, ge=8)
    channels: Literal[1, 3] = 1
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(0.5, gt=0)

    # sealing
    scheme: str = "block_pixel_shuffle"
    block: int = Field(16, ge=1)
    key_scope: Literal["consortium", "party", "image"] = "consortium"
    scheme_options: dict[str, bool | int | str] = Field(default_factory=dict)

    # the common Vision Transformer
    model: str = "vit_tiny_patch16_224"
    model_args: dict[str, bool | int | float | str] = Field(default_factory=dict)
    weights: str = ""
    stem: Literal["learn", "private", "plain"] = "learn"
    stem_frozen: bool = False
    # What of the encoder is trained and travels. The head always does both; the stem follows `stem`.
    share: Literal["all", "head", "lora"] = "all"
    lora_rank: int = Field(4, ge=1)
    lora_alpha: float = Field(8.0, gt=0)

    # training: federated by Flower, or by the provider alone on all sealed images
    train: Literal["federated", "central"] = "federated"
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedmedian", "krum"] = "fedavg"
    proximal_mu: float = Field(0.01, gt=0)
    server_lr: float = Field(0.01, gt=0)
    malicious: int = Field(0, ge=0)
    wire: Literal["float32", "bfloat16"] = "float32"
    rounds: int = Field(5, ge=0)
    local_epochs: int = Field(1, ge=1)
    batch: int = Field(32, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(3e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    warmup_steps: int = Field(20, ge=0)
    clip: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    augment: Literal["none", "flip_shift"] = "none"
    quorum: int = Field(0, ge=0)
    deadline_s: float = Field(3600.0, gt=0)
    grace_s: float = Field(60.0, ge=0)
    retries: int = Field(1, ge=0)
    keep_updates: int = Field(0, ge=0)
    baseline: bool = True
    wrong_keys: int = Field(5, ge=0)

    # the audit
    attacks: tuple[str, ...] = Field(("as_is", "leading_bit", "pooled_key_recovery"), min_length=1)
    pools: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    draws: int = Field(3, ge=1)
    audit_rows: int = Field(128, ge=16)
    gallery: int = Field(1000, ge=8)
    budget_s: float = Field(600.0, gt=0)

    @field_validator("model_args")
    @classmethod
    def _own_to_the_study(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_SET_BY_THE_STUDY & value.keys()):
            raise CipherwardError(
                f"model_args: {taken[0]} is set by the study",
                "classes and channels are those of the images, the size is image_size, weights are weights",
            )
        return value

    @model_validator(mode="after")
    def _sound(self) -> Plan:
        # Raises where scheme, options, block and image do not go together, before anything is read or written.
        self.describe()
        self._stem_sound()
        self._augment_sound()
        if self.quorum > self.parties:
            raise ValueError(f"a quorum of {self.quorum} is more than the {self.parties} parties")
        self._federation_sound()
        if not self.pools or list(self.pools) != sorted(set(self.pools)) or self.pools[0] < 1:
            raise ValueError("pools: sizes must rise, from 1 or more")
        if self.source == "phantom" and min(self.counts) < self.parties:
            raise ValueError(
                "counts: the phantom needs [train, val, test] image counts, one a party or more"
            )
        return self

    def _augment_sound(self) -> None:
        """Raises CipherwardError where views of sealed images would need a key that training does not have."""
        if self.augment != "none" and self.stem == "learn":
            raise CipherwardError(
                "augment goes with stem private or plain: only a hospital that opens its key as it trains can "
                "alter an image before it is sealed",
                "several views of an image sealed beforehand, under one key, would hand the cloud known pairs; "
                "set augment to none, or stem to private",
            )

    def _federation_sound(self) -> None:
        """Raises CipherwardError where the strategy wants more replies, or `share` another model, than there are."""
        least = 2 * self.malicious + 3
        if self.train == "federated" and self.strategy == "krum" and self.needed < least:
            raise CipherwardError(
                f"krum with {self.malicious} malicious parties needs {least} replies a round, "
                f"and {self.needed} make one here",
                "set parties, or the quorum, to 2 · malicious + 3 or more",
            )
        if self.share == "lora" and not any(part in self.model for part in _VITS):
            raise CipherwardError(
                f"share lora: {self.model} is not a Vision Transformer, and adapters go on its linear layers",
                "choose one of timm's vit_* models, or share all or head",
            )

    def _stem_sound(self) -> None:
        """Raises CipherwardError where no stem can be carried into the coordinates of the plan's keys."""
        if self.train == "central" and self.stem != "learn":
            raise CipherwardError(
                f"stem {self.stem} goes with federated training: the provider has no key to carry one by",
                "set stem to learn, or train to federated",
            )
        if self.stem == "learn":
            if self.stem_frozen:
                raise CipherwardError(
                    "stem_frozen goes with stem private or plain: under learn, the stem is what learns to read",
                    "set stem, or leave stem_frozen out",
                )
            return
        able = ", ".join(CARRIED)
        if self.scheme not in CARRIED:
            why = (
                "needs a key for every image"
                if self.scheme == "noise"
                else "is not one linear map for all blocks"
            )
            raise CipherwardError(
                f"stem {self.stem}: a stem cannot be carried for {self.scheme}, which {why}",
                f"a stem can be carried for {able}; every scheme goes with stem learn",
            )
        if self.key_scope == "image":
            raise CipherwardError(
                f"stem {self.stem}: with a key for every image there are no coordinates to carry a stem into",
                "set key_scope to consortium or party, or stem to learn",
            )
        moved_by_signs = self.optimizer == "adamw" or self.precision != "float32"
        if self.stem == "plain" and self.scheme == "orthogonal" and moved_by_signs and not self.stem_frozen:
            raise CipherwardError(
                "stem plain with orthogonal goes with optimizer sgd and precision float32: AdamW steps by signs, and "
                "what stepped by signs in the key's coordinates shows the key once it is carried back and sent",
                "set optimizer to sgd, stem to private, or stem_frozen to true",
            )

    def describe(self) -> SchemeSpec:
        """What every hospital seals under: a nonce, where the scheme wants one, is fresh at each call."""
        shape = (self.image_size, self.image_size, self.channels)
        return describe(self.scheme, shape, self.block, self.key_scope, self.scheme_options)

    @property
    def needed(self) -> int:
        """Replies that make a round: the quorum, or all parties where none is set."""
        return self.quorum or self.parties

    @property
    def proximal(self) -> float:
        """The weight of FedProx's proximal term in a hospital's loss; 0 under every other strategy."""
        return self.proximal_mu if (self.train, self.strategy) == ("federated", "fedprox") else 0.0

    def party_names(self) -> list[str]:
        """hospital-0, hospital-1, …: the names of a simulated study's parties."""
        return [f"hospital-{i}" for i in range(self.parties)]


def read_plan(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """The plan in a YAML file, whose weights and images are named. Raises CipherwardError as `plan_in` does, too.

    Who only looks at a training asks for `plan_in`: its public weights need not be here.
    """
    plan = plan_in(path, overrides)
    if plan.weights and not Path(plan.weights).is_file():
        raise CipherwardError(f"no weights file at {plan.weights}", "name one with --set weights=PATH")
    if plan.source != "phantom" and not plan.images:
        raise CipherwardError(
            f"{path}: the {plan.source} source needs images", "name them with --images PATH"
        )
    return plan


def plan_in(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """The plan in a YAML file, whether or not what it names is here. Raises CipherwardError with the file and key.

    Relative `images` and `weights` paths are read from the working directory and made absolute, because
    a Flower process works elsewhere.
    """
    values = {**read_yaml(Path(path), "plan"), **(overrides or {})}
    for key in ("images", "weights"):
        if values.get(key):
            values[key] = str(Path(str(values[key])).expanduser().resolve())
    return build(Plan, values, str(path))


def write_plan(plan: Plan, folder: Path) -> Path:
    """Writes the resolved plan where every process of the study finds it."""
    path = Path(folder) / FILE
    write_text(path, yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False))
    return path
