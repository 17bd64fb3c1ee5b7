"""What a report means for patients, and what to do about it, in plain words, in the order of effect.

Every figure comes from the report itself or from measured.json. Where there is no measurement, the advice says so.
No sentence is softer than the verdict: it follows from the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.exchange.audit.suite1 import draws_needed
from coordinator.report.measured import Measured, MeasuredBreak, measured
from coordinator.report.reach import attacked_up_to, unfinished_attacks
from coordinator.report.records import Report
from coordinator.report.rows import Row, rows_of
from coordinator.report.verdict_text import OWN_RUN, headline, uncertain_attacks, upper_bounds
from coordinator.report.wording import images, listed, percent, score
from crypto.plural import counted
from crypto.scheme import always_has_row_keys

#: Schemes of one key whose pools only attacks with public images have a way into.
_NEEDS_PUBLIC = ("orthogonal", "noisy_orthogonal", "block_projection", "neuracrypt")

NOT_MEASURED = "Not measured."
#: What a break by V, R or K lets somebody do with patients' images: with all that were tried, and with a share.
_CAN = {
    "V": (
        "sees what is in the patients' pictures",
        "sees what is in the patients' pictures ({} of those tried)",
    ),
    "R": (
        "finds each image among pictures that it can compare with",
        "finds {} of the images tried among pictures that it can compare with",
    ),
    "K": ("opens further images with the key that it recovers",) * 2,
}

#: What an attack needs beside sealed images, by its tier.
_BESIDE = {
    "T2": ", and public images of the same kind",
    "T3": ", and the plain images of some of them",
    "T4": ", and can have images sealed",
    "T5": ", and what the cloud sees of the training",
}


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        do: What, as an order.
        gain: What it gains, with its figures, or that this was not measured.
        source: Where the figures are from; empty if from this report, or if there are none.
    """

    do: str
    gain: str
    source: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """Each file of `source` with its date; empty without."""
        return tuple(self.source.split("; ")) if self.source else ()


# ---- what it means for patients ------------------------------------------------------------------------------


def meaning(report: Report) -> list[str]:
    """Return what a report means for the patients whose images are sealed, one sentence or two each."""
    verdict = report.verdict
    if not report.valid:
        return [
            "This audit says nothing about the patients' images: it did not work as it must.",
            "Until an audit is valid, treat the sealed images as if they were plain.",
        ]
    lines = []
    if report.defects:
        lines.append(
            "Sealing does not protect these patients. Whoever has the scheme's program needs neither the key nor an "
            "attack of the suite: "
            f"{'; '.join(report.defects)}."
        )
    if verdict.smallest_pool is not None:
        lines += _meaning_of_break(report)
    elif verdict.readable_at:
        smallest = min(verdict.readable_at.values())
        lines.append(
            f"Patients' images can be read. Whoever holds {images(smallest, 'sealed')} of this study gets pictures "
            "in the negative or turned, and can turn them back."
        )
    elif report.defects:
        pass  # what attacks did not reach says nothing any more
    elif not _has_verdict(report):
        lines.append(
            "It is not known whether patients' images can be recovered. Treat them as if they could."
        )
    else:
        lines += _meaning_of_no_break(report)
    if verdict.smallest_pool is None and any(f.broken or f.readable_by for f in report.findings):
        lines.append(
            "Some patients' images were recovered nevertheless, in too few draws to count as a break."
        )
    if verdict.linkable:
        lines.append(
            "Whoever already has a copy of a patient's image can find it among the sealed ones, and reads its label "
            "beside it."
        )
    lines.append("Labels are not encrypted: whoever holds the sealed images knows each image's class.")
    return lines


def _has_verdict(report: Report) -> bool:
    """Return whether the attacks say anything where they broke nothing: they ran to their end, and are certain."""
    verdict = report.verdict
    ran = bool(verdict.largest_pool) and verdict.pool_attacked
    return ran and not uncertain_attacks(verdict) and not unfinished_attacks(report)


def _meaning_of_break(report: Report) -> list[str]:
    """Return what the attacks reached, each measure with the fewest images and the least knowledge that did."""
    verdict = report.verdict
    rows = [row for row in rows_of(report) if row.size >= verdict.broken_at.get(row.attack, row.size + 1)]
    by_need: dict[tuple[int, str], list[str]] = {}
    for letter in _CAN:
        # With more images, an attack that breaks the scheme may reach another measure, too, in enough draws.
        reaching = [
            row
            for row in rows
            if row.breaks_by(letter) and (row.counts or row.breaks_by(letter) >= draws_needed(row.draws))
        ]
        if not reaching:
            continue
        size, tier = min((row.size, row.tier) for row in reaching)
        least = [row for row in reaching if (row.size, row.tier) == (size, tier)]
        most = max(least, key=lambda row: row.breaks_by(letter) / row.draws)
        often = (
            ""
            if most.breaks_by(letter) == most.draws
            else f" (in {most.breaks_by(letter)} of {counted(most.draws, 'draw')})"
        )
        by_need.setdefault((size, tier), []).append(_can(letter, most) + often)
    # Without a letter, a break is one that the second look alone found.
    reached = sorted(by_need.items()) or [
        ((verdict.smallest_pool or 0, ""), ["succeeds by the rule of the suite"])
    ]
    told = [
        f"Whoever holds {images(size, 'sealed')} of this study{_BESIDE.get(tier, '')}, without any key, "
        f"{listed(words)}."
        for (size, tier), words in reached
    ]
    scope = {
        "consortium": "One key seals the images of all hospitals, so this is about the patients of all of them.",
        "party": "Each hospital has its own key, so this is about the patients of each whose images leave it.",
        "image": "Each image has its own key, and that did not prevent this.",
    }.get(report.scheme.key_scope, "")
    held = f"The audited pool held {images(report.pool.images)}."
    return [
        f"Sealing does not protect these patients. {told[0]}",
        *told[1:],
        *([scope] if scope else []),
        held,
    ]


def _can(letter: str, row: Row) -> str:
    """Return what a break by a measure lets somebody do, with the share of the guesses that it was done with."""
    every, some = _CAN[letter]
    rates = {
        "R": (row.reidentified, row.second_reidentified),
        "V": (row.visible, row.second_visible),
    }.get(letter, ())
    share = max((rate.rate for rate in rates if rate), default=1.0)
    return every if share == 1 else some.format(percent(share))


def _meaning_of_no_break(report: Report) -> list[str]:
    reach = images(attacked_up_to(report), "sealed")
    first = f"No attack of this audit recovered patients' images from up to {reach}."
    if report.attacked_by not in OWN_RUN:
        first = (
            f"No recovered image of a patient was reported, from up to {reach}. Who ran the attacks could have kept "
            "one back."
        )
    bounds = upper_bounds(report, rows_of(report))
    bound = (
        [
            f"Even so, by the 95 % bound up to {percent(bounds[0])} of the attacks' guesses may name their "
            f"originals, and up to {percent(bounds[1])} may show more of an image than is seen without an attack."
        ]
        if bounds
        else []
    )
    return [
        first,
        *bound,
        "Better attacks, and larger pools, were not tried. This does not show that patients are safe.",
    ]


# ---- what to do ----------------------------------------------------------------------------------------------


def actions(report: Report) -> list[Action]:
    """Return what to do, the largest effect first. An invalid report is to be mended first (`repeat.mends`)."""
    if not report.valid:
        return []
    known = measured()
    broken = headline(report).state == "broken"
    exposed = broken or any(f.broken or f.readable_by for f in report.findings)
    result = [_keep_pool(report, known, exposed)]
    if exposed:
        result.append(
            Action(
                "Treat every sealed image that has left a hospital as a plain image: tell the hospital's data "
                "protection officer.",
                "No protection is regained: a new key does not change the copies that others hold.",
            )
        )
    elif report.attacked_by not in OWN_RUN:
        result.append(
            Action(
                "Run the attacks in the hospital, with cipherward-party audit.",
                "The verdict then depends on nobody who could withhold a success. How often one does: not measured.",
            )
        )
    if not exposed:
        result.append(_limit_pool(report))
    else:
        result += _other_scheme(report, known)
    result += _key_per_image(report, known)
    result.append(_protect_updates(report, known))
    return result


def _keep_pool(report: Report, known: Measured, exposed: bool) -> Action:
    pool = report.verdict.smallest_pool
    gain = "An attack on sealed images then has none to work on."
    if exposed and pool is not None:
        gain += f" In this report {images(pool, 'sealed')} {'was' if pool == 1 else 'were'} enough."
    source = ""
    if known.training is not None:
        source = known.sources.get("training", "")
        gain += (
            " Accuracy on brain MRI without a pool, mean ± standard deviation and range over seeds: "
            f"{known.training.federated} federated, {known.training.central} "
            "for one model on all plain images"
            + (", which were not augmented." if "augment" in known.training.protocol else ".")
        )
    return Action("Let no sealed image leave the hospitals. Federate the training instead.", gain, source)


def _limit_pool(report: Report) -> Action:
    largest = attacked_up_to(report)
    if not _has_verdict(report):
        if _lacks_public_images(report):
            return Action(
                "Audit again with public images of the same kind (--public PUBLIC): without any, no attack of the "
                f"suite has a way into a pool of {report.scheme.name}.",
                NOT_MEASURED,
            )
        return Action("Audit again until the attacks on a pool run to their end.", NOT_MEASURED)
    return Action(
        f"If sealed images must leave, let at most {images(largest)} leave under one key.",
        f"Up to {images(largest)} were attacked in this report. What more of them reveal: not measured."
        + (" A single one is found by whoever has a copy of its image." if report.verdict.linkable else ""),
    )


def _lacks_public_images(report: Report) -> bool:
    """Return whether the only attack that has a way into the scheme was not run, as without public images."""
    is_shared = report.scheme.key_scope != "image" and not always_has_row_keys(report.scheme.name)
    return (
        is_shared
        and report.scheme.name in _NEEDS_PUBLIC
        and "moment_matching" not in {finding.attack for finding in report.findings}
    )


def _shared(known: Measured) -> list[MeasuredBreak]:
    """Return the measured breaks of schemes with default options under one shared key."""
    return [b for b in known.breaks if b.key_scope == "consortium" and not b.options and not b.is_idle]


def _other_scheme(report: Report, known: Measured) -> list[Action]:
    """Return the scheme that took the most images, beside the audited one on the same kind of images, if any."""
    own = {b.images: b for b in _shared(known) if b.scheme == report.scheme.name and b.smallest_pool}
    # The smallest pool tried is no gain: fewer images may be enough.
    others = [
        b
        for b in _shared(known)
        if b.scheme != report.scheme.name
        and b.images in own
        and b.smallest_pool is not None
        and any(size < b.smallest_pool for size in b.tried)
        and b.smallest_pool > (own[b.images].smallest_pool or 0)
    ]
    if not others:
        return []
    best = max(others, key=lambda b: (b.smallest_pool or 0) / (own[b.images].smallest_pool or 1))
    base = own[best.images].smallest_pool
    earlier = [f"{images(size)} in {n} of {counted(best.draws, 'draw')}" for size, n in best.broken_earlier]
    also = f" Fewer were enough at times: {listed(earlier)}." if earlier else ""
    return [
        Action(
            f"If sealed images must leave: the scheme {best.scheme} takes more of them to break. It delays a break "
            "and does not prevent it.",
            f"On {best.images}: broken with {images(best.smallest_pool or 0)} instead of {base}, in {best.broken} of "
            f"{counted(best.draws, 'draw')}.{also}",
            known.sources.get("breaks", ""),
        )
    ]


def _key_per_image(report: Report, known: Measured) -> list[Action]:
    """Return what a key for each image gains; nothing if the audited scheme has one."""
    if report.scheme.key_scope == "image" or always_has_row_keys(report.scheme.name):
        return []
    found = [
        b
        for b in known.breaks
        if (b.scheme, b.key_scope, b.options) == (report.scheme.name, "image", "") and not b.is_idle
    ]
    withstood = [b for b in found if b.withstood]
    broken = [b for b in found if b.smallest_pool is not None]
    uncertain = [b for b in found if b not in withstood and b not in broken]
    # Equal results on several kinds of images are one sentence: a list of the same words is not read.
    alike: dict[tuple[int, int], list[str]] = {}
    for item in broken:
        alike.setdefault((item.broken, item.draws), []).append(item.images)
    sentences = [
        f"No gain was measured on {'; '.join(names)}: a single image was broken there in {count} of "
        f"{counted(draws, 'draw')}{' each' if len(names) > 1 else ''}."
        for (count, draws), names in alike.items()
    ]
    for item in withstood:
        sentences.append(
            f"Measured on {item.images}: no single image was broken, in {counted(item.draws, 'draw')}"
            + (f", {item.uncertain} of them uncertain." if item.uncertain else ".")
        )
    gain = " ".join(sentences) or NOT_MEASURED
    if uncertain:
        gain += (
            f" Nothing is known of {listed([b.images for b in uncertain])}: the attack is uncertain there."
        )
    do = "Seal each image under a key of its own (key scope image), so that images cannot be attacked together."
    if broken and not withstood:
        do = "Do not count on a key for each image (key scope image)."
    return [Action(do, gain, known.sources.get("breaks", "") if sentences or uncertain else "")]


def _protected(known: Measured) -> str:
    """Return what is left to attacks on updates under each protection, in words."""
    left = {
        item.protection: f"SSIM {score(item.ssim)} and {item.confirmed} of "
        f"{counted(item.members, 'known image')} confirmed"
        for item in known.protections
    }
    names = [name for name in ("nothing", "secure aggregation", "DP, ε = 8") if name in left]
    if "nothing" not in names or len(names) < 2:
        return "What it keeps from an attack on updates: not measured."
    shown = "; ".join(
        f"{left[name]} {'without protection' if name == 'nothing' else f'with {name}'}" for name in names
    )
    return f"Updates of one step on brain MRI: {shown}."


def _protect_updates(report: Report, known: Measured) -> Action:
    """Return what protects updates: they leak apart from the sealed images."""
    training = report.training
    on = training.privacy if training is not None else None
    sums = training.sums if training is not None else None
    sentences = []
    if known.inversions:
        worst = max(known.inversions, key=lambda inversion: inversion.share)
        sentences.append(f"From unprotected updates ({worst.update}), {worst.found} images were recovered.")
    accuracy = {point.epsilon: point.accuracy for point in known.privacy}
    bounds = sorted(epsilon for epsilon in accuracy if epsilon is not None)
    if None in accuracy and bounds:
        costs = listed([f"{percent(accuracy[e])} at ε = {e:g}" for e in reversed(bounds)])
        sentences.append(
            "Differential privacy costs accuracy. Where only the last layer is trained: "
            f"{percent(accuracy[None])} without, {costs}"
            + (
                f" (all weights, without it, by another recipe: {known.training.federated})."
                if known.training
                else "."
            )
        )
    sentences.append(_protected(known))
    cited = ("inversions", "privacy", "protections")
    sources = [known.sources[name] for name in cited if name in known.sources]
    do = "Protect the updates of a federation by secure aggregation and differential privacy. Sealing does not."
    if on is not None:
        bound = f"ε ≤ {on.epsilon:g} for each {on.unit}"
        if on.unit == "image":
            bound += ", which bounds no patient who has several"
        do = f"Keep differential privacy on (here {bound}), and {'keep' if sums else 'add'} secure aggregation."
    elif sums is not None:
        do = "Keep secure aggregation on, and add differential privacy: images can be confirmed in a sum."
    return Action(do, " ".join(sentences), "; ".join(sources))
