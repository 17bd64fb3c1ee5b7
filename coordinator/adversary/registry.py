"""The attacks: one row each. To add one, write a module with `attack(knowledge) -> Guess` and add its row here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from coordinator.adversary.contract import Attack, Guess, Knowledge, Tier
from crypto.scheme import load


@dataclass(frozen=True)
class LazyAttack:
    """An attack whose module is imported when it first runs, in whichever process that is.

    torch takes seconds to load, and every worker would pay for it. Unlike a closure, it can be pickled.

    Attributes:
        module: the module below coordinator/adversary that holds `attack`.
    """

    module: str

    def __call__(self, knowledge: Knowledge) -> Guess:
        """Import the module and run its attack."""
        attack: Attack = importlib.import_module(f"coordinator.adversary.{self.module}").attack
        return attack(knowledge)


@dataclass(frozen=True)
class AttackInfo:
    """One row of the list of attacks.

    Attributes:
        name: the attack's name in commands, plans and reports.
        attack: the attack itself.
        tier: the least knowledge that the attack needs.
        needs: what it needs, in words.
        breaks: what it breaks, in words.
        source: the paper, or `ours`.
        uses_pool: True if more images help it, so that it is worth running at several pool sizes.
        in_suite: True if the suite runs it: a cloud holds what it needs, and its guess is no copy of a candidate.
        by_name: True if it runs only when it is named, because it trains networks for hours or needs thousands of
            ciphertexts or public images.
        study: True if it gets what the cloud observed of a training.
    """

    name: str
    attack: Attack
    tier: Tier
    needs: str
    breaks: str
    source: str
    uses_pool: bool = False
    in_suite: bool = True
    by_name: bool = False
    study: bool = False

    def tier_used(self, knowledge: Knowledge) -> Tier:
        """Return the tier of one run: a pool attack that may use one image only is an attack of T0."""
        alone = len(knowledge.pool_rows) == 1 or load(knowledge.pool.spec).is_each_alone
        return Tier.T0 if self.tier == Tier.T1 and alone else self.tier


_ONE = "one ciphertext"

ATTACKS: dict[str, AttackInfo] = {
    info.name: info
    for info in (
        AttackInfo(
            "as_is", LazyAttack("decode.as_is"), Tier.T0, _ONE, "plain", "the control of every audit"
        ),
        AttackInfo(
            "leading_bit",
            LazyAttack("decode.leading_bit"),
            Tier.T0,
            _ONE,
            "sign flips of single values; no shuffle",
            "arXiv 2004.13263",
        ),
        AttackInfo(
            "edge_guided",
            LazyAttack("decode.edge_guided"),
            Tier.T0,
            _ONE,
            "what leading_bit breaks, and no more",
            "after arXiv 2004.13263",
        ),
        AttackInfo(
            "minimum_difference",
            LazyAttack("decode.minimum_difference"),
            Tier.T0,
            _ONE,
            "sign flips and colour orders of single pixels, in part",
            "arXiv 2004.13263",
        ),
        AttackInfo(
            "brute_force",
            LazyAttack("seeds.brute_force"),
            Tier.T0,
            f"{_ONE}, a key from a small seed",
            "block_pixel_shuffle under a weak seed",
            "ours",
        ),
        AttackInfo(
            "jigsaw",
            LazyAttack("recover.jigsaw"),
            Tier.T0,
            _ONE,
            "etc in colour, sub_block_etc, block_pixel_shuffle, patch_shuffle",
            "arXiv 2202.00806",
        ),
        AttackInfo(
            "pooled_key_recovery",
            LazyAttack("recover.pooled_key_recovery"),
            Tier.T1,
            "ciphertexts under one shared key",
            "every scheme of one key but orthogonal, noisy_orthogonal, block_projection, neuracrypt",
            "ours, after arXiv 2202.00806",
            uses_pool=True,
        ),
        AttackInfo(
            "moment_matching",
            LazyAttack("recover.moment_matching"),
            Tier.T2,
            "ciphertexts under one key, public plain images",
            "orthogonal, noisy_orthogonal, block_projection, neuracrypt",
            "ours",
            uses_pool=True,
        ),
        AttackInfo(
            "gan",
            LazyAttack("networks.gan"),
            Tier.T2,
            "thousands of ciphertexts under one key, public plain images, minutes to hours",
            "le",
            "arXiv 2010.06198",
            uses_pool=True,
            by_name=True,
        ),
        AttackInfo(
            "sia_gan",
            LazyAttack("networks.sia_gan"),
            Tier.T2,
            "thousands of labelled ciphertexts under one key, public plain images, a GPU",
            "by its paper le, pe, ele, etc",
            "Madono 2021, IEEE Access 9",
            uses_pool=True,
            by_name=True,
        ),
        AttackInfo(
            "itn",
            LazyAttack("networks.itn"),
            Tier.T2,
            f"{_ONE}, thousands of public plain images, a GPU",
            "by its paper none",
            "arXiv 2010.06198",
            by_name=True,
        ),
        AttackInfo(
            "reidentify",
            LazyAttack("decode.reidentify"),
            Tier.T2,
            f"{_ONE} and a gallery that may hold its image",
            "nothing: it links ciphertexts to images one has",
            "ours",
            in_suite=False,
        ),
        AttackInfo(
            "match_tokens",
            LazyAttack("pairs.match_tokens"),
            Tier.T2,
            "ciphertexts under one key, and a set of images that holds theirs; no pair",
            "nothing: it links neuracrypt's ciphertexts to images one has",
            "after arXiv 2108.07256",
            in_suite=False,
        ),
        AttackInfo(
            "learned_stem",
            LazyAttack("training.learned_stem"),
            Tier.T2,
            "labelled ciphertexts under one key and a study's public model, minutes",
            "block_pixel_shuffle, value_shuffle, whatever the stem mode",
            "ours",
            uses_pool=True,
            in_suite=False,
            by_name=True,
            study=True,
        ),
        AttackInfo(
            "weights",
            LazyAttack("training.weights"),
            Tier.T5,
            "a study's shared weights, its public ones, and ciphertexts",
            "block_pixel_shuffle, value_shuffle where the stem learnt on them; orthogonal where it was carried",
            "ours",
            uses_pool=True,
            study=True,
        ),
        AttackInfo(
            "known_pairs",
            LazyAttack("pairs.known_pairs"),
            Tier.T3,
            "plain images and their ciphertexts under the key",
            "every scheme with a shared key",
            "textbook",
            in_suite=False,
        ),
        AttackInfo(
            "chosen_plaintext",
            LazyAttack("pairs.chosen_plaintext"),
            Tier.T4,
            "somebody who seals images of one's choice",
            "every scheme with a shared key",
            "textbook",
            in_suite=False,
        ),
        AttackInfo(
            "updates",
            LazyAttack("training.updates"),
            Tier.T5,
            "replies of a training with few local images and steps",
            "no scheme: plain images under the stems private and plain, ciphertexts under learn",
            "ours, after arXiv 2112.14087, 2003.14053",
            in_suite=False,
        ),
    )
}
