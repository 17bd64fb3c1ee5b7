"""The plan of a study: one flat YAML file, read into one frozen object that every process of the study uses."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from coordinator.exchange.audit import suite1
from coordinator.exchange.model_choice import check_model_args, check_model_name
from coordinator.exchange.privacy import Privacy, require_compatible, require_summable, sums_securely
from coordinator.exchange.settings import (
    MAX_ALPHA,
    MAX_RATE,
    MAX_SEED,
    Settings,
    build,
    mark_whole,
    nest,
    read_yaml,
)
from coordinator.exchange.time_left import MAX_SECONDS
from crypto.errors import CipherwardError
from crypto.files import write_text
from crypto.scheme import always_has_row_keys, carries_stem, describe, load, stem_carriers
from crypto.spec import SchemeSpec

FILE = "plan.yaml"
#: Settings that say how files of images are found and read.
_READING = ("groups", "class_list", "window", "fit", "background")
#: Chosen by hand: a thousand hospitals would be many, and a study makes a folder for each.
_MAX_PARTIES = 10_000
#: As wide as the widest network may be (model_choice.py): an adapter of higher rank has nothing to add.
_MAX_RANK = 16_384
# A part of the name of each of timm's Vision Transformers. A model of another kind with such a name is refused later,
# when it is built.
_VIT_NAMES = ("vit", "deit", "aimv2", "beit3", "eva_large")


class Plan(Settings):
    """Every setting of a study. A user must fill in the paths only. docs/training.md explains the settings."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0, le=MAX_SEED)

    # the parties, and the images that each of them holds
    parties: int = Field(default=3, ge=1, le=_MAX_PARTIES)
    source: str = "phantom"
    images: str = ""
    # How a simulated hospital finds and reads its images (docs/images.md). A real one has these in its party.yaml.
    labels: str = ""
    groups: str = "folder"
    class_list: tuple[str, ...] = ()
    window: str = ""
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    background: int | None = Field(default=None, ge=0, le=255)
    counts: tuple[int, int, int] = (0, 0, 0)
    image_size: int = Field(default=224, ge=8)
    channels: Literal[1, 3] = 1
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(default=0.5, gt=0, le=MAX_ALPHA)

    # sealing
    scheme: str = "block_pixel_shuffle"
    block: int = Field(default=16, ge=1)
    key_scope: Literal["consortium", "party", "image"] = "consortium"
    scheme_options: dict[str, bool | int | str] = Field(default_factory=dict)

    # the Vision Transformer that all parties train
    model: str = "vit_tiny_patch16_224"
    model_args: dict[str, bool | int | float | str] = Field(default_factory=dict)
    weights: str = ""
    stem: Literal["learn", "private", "plain"] = "learn"
    stem_frozen: bool = False
    # Whether positions begin as the weights have them, or all alike: a key that moves blocks makes them wrong.
    positions: Literal["weights", "alike"] = "weights"
    # The part of the encoder that is trained and sent. The head always is; `stem` decides on the stem.
    share: Literal["all", "head", "lora"] = "all"
    lora_rank: int = Field(default=4, ge=1, le=_MAX_RANK)
    lora_alpha: float = Field(default=8.0, gt=0, le=MAX_RATE)
    # Adapters are in the last so many blocks of the encoder (0: in all), and there in these linear layers.
    lora_blocks: int = Field(default=0, ge=0)
    lora_layers: tuple[Literal["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"], ...] = Field(
        default=("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"), min_length=1
    )

    # training: federated (by Flower), or central (by the provider alone, on all sealed images)
    train: Literal["federated", "central"] = "federated"
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedmedian", "krum"] = "fedavg"
    proximal_mu: float = Field(default=0.01, gt=0, le=MAX_RATE)
    server_lr: float = Field(default=0.01, gt=0, le=MAX_RATE)
    malicious: int = Field(default=0, ge=0)
    # The norm of one hospital's update is at most this many times the median of the round; 0: no bound. The longest
    # seen was 2.6 times among hospitals of one size, and 6.1 times from one with nine times the images (SGD).
    max_update_norm: float = Field(default=20.0, ge=0)
    wire: Literal["float32", "bfloat16"] = "float32"
    rounds: int = Field(default=5, ge=0)
    local_epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=32, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(default=3e-4, gt=0, le=MAX_RATE)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0, le=MAX_RATE)
    warmup_steps: int = Field(default=20, ge=0)
    # The rate of a weight is the schedule's, times what these say of its layer (coordinator/model/optimizer.py).
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    stem_lr_scale: float = Field(default=1.0, gt=0, le=MAX_RATE)
    position_lr_scale: float = Field(default=1.0, gt=0, le=MAX_RATE)
    frozen_rounds: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    augment: Literal["none", "flip_shift", "flip_affine"] = "none"
    mixup: float = Field(default=0.0, ge=0)
    quorum: int = Field(default=0, ge=0)
    deadline_s: float = Field(default=3600.0, gt=0, le=MAX_SECONDS)
    grace_s: float = Field(default=60.0, ge=0, le=MAX_SECONDS)
    retries: int = Field(default=1, ge=0)
    keep_updates: int = Field(default=0, ge=0)
    baseline: bool = True
    wrong_keys: int = Field(default=5, ge=0)

    # what protects the updates (docs/privacy.md)
    privacy: Privacy = Field(default_factory=Privacy)

    # the audit
    attacks: tuple[str, ...] = Field(default=suite1.ATTACKS, min_length=1)
    pools: tuple[int, ...] = suite1.POOLS
    draws: int = Field(default=suite1.DRAWS, ge=1, le=suite1.MAX_DRAWS)
    audit_rows: int = Field(default=suite1.AUDIT_ROWS, ge=suite1.MIN_AUDIT_ROWS)
    gallery: int = Field(default=suite1.GALLERY_IMAGES, ge=suite1.MIN_GALLERY)
    budget_s: float = Field(default=600.0, ge=suite1.MIN_BUDGET_S, le=MAX_SECONDS)

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        check_model_name(value)
        return value

    @field_validator("model_args")
    @classmethod
    def _check_model_args(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_model_args(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Plan:
        # Raises if scheme, options, block and image size do not fit together, or leave too few keys, before anything
        # is read or written.
        load(self.describe()).require_key_space()
        self._check_stem()
        self._check_augment()
        self._check_rates()
        if self.quorum > self.parties:
            raise ValueError(f"a quorum of {self.quorum} is more than the {self.parties} parties")
        self._check_federation()
        require_compatible(self.privacy, self.train, self.precision, self.compile, self.class_weights)
        if self.sums_securely:
            require_summable(self.privacy, self.train, self.strategy, self.parties, self.quorum)
        else:
            self.privacy.require_sums()
        if not self.pools or list(self.pools) != sorted(set(self.pools)) or self.pools[0] < 1:
            raise ValueError("pools: sizes must rise, from 1 or more")
        if self.source == "phantom" and min(self.counts) < self.parties:
            raise ValueError(
                "counts: the phantom needs [train, val, test] image counts, at least one image a party in each"
            )
        return self

    def _check_augment(self) -> None:
        """Raise CipherwardError if views of sealed images would need a key that training does not have."""
        if self.augment == "none":
            return
        if self.train == "central":
            raise CipherwardError(
                "augment goes with federated training: only a hospital, which has the key, can alter an image before "
                "it is sealed",
                "several views of one image, sealed beforehand under one key, would give the cloud known pairs; "
                "set augment to none, or train to federated",
            )
        scheme = load(self.describe())
        if scheme.row_keys:
            raise CipherwardError(
                "augment goes with a key that is the same for every image",
                "set augment to none, or key_scope to consortium or party",
            )
        scheme.require_invertible("set augment to none")

    def _check_rates(self) -> None:
        """Raise CipherwardError if differential privacy, or what is trained, leaves no use for a setting."""
        scales = (self.layer_decay, self.stem_lr_scale, self.position_lr_scale)
        one_rate = (*scales, self.frozen_rounds) == (1.0, 1.0, 1.0, 0)
        if self.privacy.is_on and not one_rate:
            raise CipherwardError(
                "layer_decay, stem_lr_scale, position_lr_scale and frozen_rounds do not go with privacy.epsilon: "
                "private training clips and moves all weights together",
                "leave them out; share: head or lora trains less of the encoder",
            )
        if self.privacy.is_on and self.mixup:
            raise CipherwardError(
                "mixup does not go with privacy.epsilon: the gradient of a mixed image holds two images",
                "leave mixup out",
            )
        if self.frozen_rounds and self.share != "all":
            raise CipherwardError(
                f"frozen_rounds goes with share all: under share {self.share} the encoder never learns",
                "leave frozen_rounds out",
            )

    def _check_federation(self) -> None:
        """Raise CipherwardError if the strategy needs more replies, or `share` another model, than the plan has."""
        least = 2 * self.malicious + 3
        if self.train == "federated" and self.strategy == "krum" and self.replies_needed < least:
            raise CipherwardError(
                f"krum with {self.malicious} malicious parties needs {least} replies a round, "
                f"and a round of this plan waits for {self.replies_needed}",
                "set parties, or the quorum, to 2 · malicious + 3 or more",
            )
        if self.share == "lora" and not any(part in self.model for part in _VIT_NAMES):
            raise CipherwardError(
                f"share lora: {self.model} is not a Vision Transformer, and adapters go on its linear layers",
                "choose one of timm's vit_* models, or share all or head",
            )

    def _check_stem(self) -> None:
        """Raise CipherwardError if the stem mode does not fit the plan's scheme, keys and training."""
        if self.train == "central" and self.stem != "learn":
            raise CipherwardError(
                f"stem {self.stem} goes with federated training: the provider has no key to carry a stem with",
                "set stem to learn, or train to federated",
            )
        if self.stem != "learn" and self.positions != "weights":
            raise CipherwardError(
                f"positions {self.positions} goes with stem learn: a carried stem begins as the weights are",
                "leave positions out, or set stem to learn",
            )
        if self.stem == "learn":
            if self.stem_frozen:
                raise CipherwardError(
                    "stem_frozen goes with stem private or plain: under learn, the stem learns to read ciphertext",
                    "set stem, or leave stem_frozen out",
                )
            return
        self._check_carried_stem()

    def _check_carried_stem(self) -> None:
        """Raise CipherwardError if no stem can be carried into the coordinates of the plan's keys."""
        if not carries_stem(self.scheme):
            why = (
                "needs a key for every image"
                if always_has_row_keys(self.scheme)
                else "is not one linear map for all blocks"
            )
            raise CipherwardError(
                f"stem {self.stem}: a stem cannot be carried for {self.scheme}, which {why}",
                f"a stem can be carried for {', '.join(stem_carriers())}; every scheme goes with stem learn",
            )
        if self.key_scope == "image":
            raise CipherwardError(
                f"stem {self.stem}: with a key for every image there are no coordinates to carry a stem into",
                "set key_scope to consortium or party, or stem to learn",
            )
        steps_by_signs = self.optimizer == "adamw" or self.precision != "float32"
        if self.stem == "plain" and self.scheme == "orthogonal" and steps_by_signs and not self.stem_frozen:
            raise CipherwardError(
                "stem plain with orthogonal goes with optimizer sgd and precision float32: AdamW steps by signs, and "
                "a step by signs in the key's coordinates shows the key after the stem is carried back and sent",
                "set optimizer to sgd, stem to private, or stem_frozen to true",
            )

    def describe(self) -> SchemeSpec:
        """Return the description of the scheme that every hospital seals with.

        If the scheme needs a nonce, each call draws a fresh one.
        """
        shape = (self.image_size, self.image_size, self.channels)
        return describe(self.scheme, shape, self.block, self.key_scope, self.scheme_options)

    def steps_per_epoch(self, images: int) -> int:
        """Return the optimizer's steps of one pass over so many images."""
        return math.ceil(images / self.batch)

    def steps_per_round(self, images: int) -> int:
        """Return the optimizer's steps of a round in a hospital with so many training images."""
        return self.steps_per_epoch(images) * self.local_epochs

    @property
    def replies_needed(self) -> int:
        """Replies that a round needs: the quorum, or one from every party if no quorum is set."""
        return self.quorum or self.parties

    @property
    def sums_securely(self) -> bool:
        """Whether the cloud learns sums of updates only (secure aggregation)."""
        return sums_securely(self.privacy, self.train, self.stem, self.strategy, self.parties)

    @property
    def proximal(self) -> float:
        """Weight of FedProx's proximal term in a hospital's loss; 0 under every other strategy."""
        return self.proximal_mu if (self.train, self.strategy) == ("federated", "fedprox") else 0.0


def read_plan(path: Path, overrides: dict[str, Any] | None = None, *, needs_images: bool = True) -> Plan:
    """Read a plan that is about to be run, and check that its weights and images are named.

    Args:
        path: the YAML file.
        overrides: settings that replace those of the file.
        needs_images: whether the images are read on this machine. A coordinator of real hospitals has none.

    Raises:
        CipherwardError: as `load_plan` does, if the weights file is missing, if the source needs images and none are
            named, or if it would not read those that are.
    """
    plan = load_plan(path, overrides)
    if plan.weights and not Path(plan.weights).is_file():
        raise CipherwardError(f"no weights file at {plan.weights}", "name one with --set weights=PATH")
    if needs_images and plan.source != "phantom" and not plan.images:
        raise CipherwardError(
            f"{path}: the {plan.source} source needs images", "name them with --images PATH"
        )
    if needs_images and plan.source == "phantom" and (unread := plan.images or plan.labels):
        # Who named them would take a study of drawn images for one of their own.
        raise CipherwardError(
            f"{path}: the phantom source draws its images, and would not read {unread}",
            "--set source=folder reads a folder of images (npz: a .npz file); or name none",
        )
    unused = [name for name in _READING if getattr(plan, name) != Plan.model_fields[name].get_default()]
    if needs_images and plan.source == "phantom" and unused:
        raise CipherwardError(
            f"{path}: the phantom source draws its images, and {unused[0]} says how files are read",
            f"leave {', '.join(unused)} out, or set source to folder",
        )
    return plan


def load_plan(path: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Read a plan without looking for its weights and images, for callers that only study a training.

    Relative paths of `images`, `labels` and `weights` are resolved against the working directory and made absolute,
    because Flower's processes have another working directory.

    Args:
        path: the YAML file.
        overrides: settings that replace those of the file.

    Raises:
        CipherwardError: if the file or a setting is wrong. The message names the file and the key.
    """
    values = nest({**read_yaml(Path(path), "plan"), **(overrides or {})})
    for key in ("images", "labels", "weights"):
        if values.get(key):
            values[key] = _absolute(str(values[key]), f"{path}: {key}")
    return build(Plan, values, str(path))


def _absolute(text: str, where: str) -> str:
    """Return a path as an absolute one. Raise CipherwardError if it can be no path, as a plan comes from others."""
    try:
        os.fsencode(text)
        return str(Path(text).expanduser().resolve())
    except (ValueError, RuntimeError, OSError) as error:
        raise CipherwardError(
            f"{where} {text!r:.80} is no path: {error}", "name a file or folder"
        ) from None


def require_rounds(plan: Plan) -> None:
    """Raise CipherwardError if a plan has no rounds: it is for an audit without a training."""
    if plan.rounds == 0:
        raise CipherwardError(
            f"the plan of {plan.study} has 0 rounds: nothing is trained",
            "set rounds to 1 or more, for a training",
        )


def placed_text(path: Path, plan: Plan) -> bytes:
    """Return a plan file's bytes for another folder: as they are, unless `weights` is a relative path there.

    Whoever reads the copy has another working directory, and the path would name another file or none.

    Args:
        path: the YAML file.
        plan: the plan that was read from it, with absolute paths.
    """
    weights = read_yaml(path, "plan").get("weights")
    if not weights or Path(str(weights)).is_absolute():
        return path.read_bytes()
    return _text(plan).encode()


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write the resolved plan to `folder`, where every process of the study finds it; return the file's path."""
    path = Path(folder) / FILE
    write_text(path, _text(plan))
    return path


def _text(plan: Plan) -> str:
    return mark_whole(yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False))
