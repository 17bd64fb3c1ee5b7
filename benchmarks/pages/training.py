"""The pages of what a training reveals: a hospital's updates, trained stems, and attacks by trained networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import facts, number, percent, table
from benchmarks.pages.protection import protection

Record = Mapping[str, Any]

UPDATES_INTRO = """# What a training reveals

Attacks of tier T5: the adversary in the cloud holds the weights and the hospitals' updates (gradient inversion,
membership inference), or the trained stem of the model. The [legend](../results.md#legend) explains the stem
modes.
"""
NETWORKS_INTRO = """# Attacks by trained networks

Attacks of tier T2: networks learn to decode. `gan` and `sia_gan`, generative adversarial networks, learn from
ciphertexts and public plain images, `itn` from public images that the adversary seals itself, under its own keys.
"""
_SHOWN_EPOCHS = 5  # of a training's scores, every fifth is shown


def updates_page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/updates.md."""
    lines = [UPDATES_INTRO]
    for entry in of_kind(entries, "updates"):
        lines += [*entry.heading(), *updates(entry.result), ""]
    for entry in of_kind(entries, "stems"):
        lines += [*entry.heading(), *stems(entry.result), ""]
    for entry in of_kind(entries, "protection"):
        lines += [*entry.heading(), *protection(entry.result), ""]
    for entry in of_kind(entries, "secure-rounds"):
        lines += [*entry.heading(), *secure_rounds(entry.result), ""]
    for entry in of_kind(entries, "secure-sum"):
        lines += [*entry.heading(), *secure_sum(entry.result), ""]
    for entry in of_kind(entries, "sum-faults"):
        lines += [*entry.heading(), *sum_faults(entry.result), ""]
    return lines


def networks_page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/networks.md."""
    lines = [NETWORKS_INTRO]
    for entry in of_kind(entries, "gan"):
        lines += [*entry.heading(), *gan(entry.result), ""]
    return lines


def updates(result: Record) -> list[str]:
    """Return what each attack on a hospital's update recovers, part by part; a part that was not run says so."""
    sections = (
        ("candidates", "Which of some candidate images an update was computed from", _candidates),
        ("search", "Searching for an image whose update is the observed one (gradient inversion)", _search),
        ("membership", "Which images a training used (membership inference)", _membership),
        ("learn", "Solving for the images from one update, several stems", _solved),
        ("solve", "Solving for the images from one update, by learning rate", _solved),
        ("steps", "Solving for the images from an update of several steps or a batch", _solved),
    )
    lines: list[str] = []
    for name, title, section in sections:
        records = result.get(name)
        lines += [f"### {title}", "", *(section(records) if records else ["Not run.", ""])]
        if records and section in (_candidates, _solved) and not all("calibrated" in r for r in records):
            lines += [_LOOSER, ""]
    return lines


#: Under records of a version that confirmed more.
_LOOSER = (
    "Counted before confirmations became stricter: a candidate must now be nearer than all decoys, a solved picture "
    "must stand out from its own variants. Not run again since, so some of these may not be confirmed today."
)


def _candidates(records: Sequence[Record]) -> list[str]:
    names = {
        "update": "update",
        "rank": "rank of the update",
        "confirmed": "members confirmed",
        "wrongly": "others confirmed wrongly",
        "members, median (most)": "distance of members, median (largest)",
        "others, median (least)": "distance of others, median (smallest)",
        "AUC": "AUC",
    }
    return table(list(names.values()), [[number(record[name]) for name in names] for record in records])


def _search(records: Sequence[Record]) -> list[str]:
    headers = [
        "image",
        "search steps",
        "cosine distance of the updates",
        "SSIM of the result",
        "SSIM of a flat picture",
        "relative distance of the result's update",
        "seconds",
    ]
    rows = [
        [
            record["image"],
            f"{record['steps']} of {record['steps planned']}",
            *(
                number(record[name])
                for name in (
                    "cosine distance",
                    "SSIM",
                    "SSIM of a flat picture",
                    "its update's distance",
                    "seconds",
                )
            ),
        ]
        for record in records
    ]
    return table(headers, rows)


def _membership(records: Sequence[Record]) -> list[str]:
    names = {
        "training": "training",
        "AUC": "AUC (95 % bounds)",
        "TPR": "true-positive rate",
        "at FPR": "at this false-positive rate",
        "members, others": "members, others",
        "training seconds": "training (s)",
    }
    return table(list(names.values()), [[number(record[name]) for name in names] for record in records])


def _solved(records: Sequence[Record]) -> list[str]:
    rank = next(name for name in records[0] if name.startswith("rank of "))
    names = {
        "stem": "stem, settings",
        "images": "images",
        rank: f"{rank} patches",
        "SSIM, median (range)": "SSIM, median (range)",
        "opened with the pool's key": "SSIM after decryption with the pool's key",
        "found": "images recovered (SSIM from .90); confirmed by training on them",
        "seconds": "seconds",
    }
    if "confirmed" in records[0]:
        records = [{**record, "found": f"{record['found']}; {record['confirmed']}"} for record in records]
    else:  # it counted what training on it confirms, and nothing else
        names["found"] = "images confirmed by training on them"
    return table(list(names.values()), [[number(record[name]) for name in names] for record in records])


def stems(result: Record) -> list[str]:
    """Return what trained stems reveal of the key."""
    headers = [
        "stem",
        "scheme",
        "images trained on",
        "ciphertexts attacked",
        "K1 / K2 correct (shares)",
        "SSIM of the guesses",
        "seconds",
    ]
    rows = [
        [
            record["stem"],
            record["scheme"],
            number(record.get("trained on")),
            record["images seen"],
            _key_cell(record),
            number(record.get("SSIM")),
            number(record.get("attack s")),
        ]
        for record in result["records"]
    ]
    return [*table(headers, rows), "How each key was found is in the notes of the JSON file."]


def _key_cell(record: Record) -> str:
    if not record["key"]:
        return f"no key: {record['note']}"
    shares = [number(record.get(name)) for name in ("K1", "K2")]
    return " / ".join(shares) if any(shares) else "a key; it has neither part"


def gan(result: Record) -> list[str]:
    """Return what a trained network makes of ciphertexts, and its training."""
    labels = {
        "attack": "attack",
        "scheme": "scheme",
        "precision": "precision of the training",
        "sealed_images": "sealed images to train on",
        "plain_images": "plain images to train on",
        "held_out_images": "sealed images that no training used",
        "epochs": "epochs",
        "share_of_the_published_steps": "share of the published number of steps",
        "median_ssim": "median SSIM of windows with texture",
        "median_ssim_toned": "the same, after the contrast was corrected",
        "median_ssim_mean_image": "floor: the mean plain image",
        "median_ssim_ciphertext": "floor: the ciphertext",
        "median_ssim_whole_picture": "median SSIM of whole pictures",
        "mean_image_whole_picture": "floor: the mean plain image, whole pictures",
        "ciphertext_whole_picture": "floor: the ciphertext, whole pictures",
        "published_whole_picture": "published: whole pictures",
        "published_lpips": "published: LPIPS, which is not measured here",
        "chosen_epoch": "epoch that the attack chooses, by patches",
        "median_ssim_chosen_toned": "its median SSIM, after the contrast was corrected",
        "median_ssim_best_toned": "the same of the best epoch, which an adversary does not know",
        "seconds": "seconds",
        "note": "note",
    }
    names = {
        "epoch": "epoch",
        "ssim": "SSIM, windows with texture",
        "whole_picture": "SSIM, whole pictures",
        "patch_distance": "distance of patches",
        "loss_discriminator": "discriminator loss",
        "loss_generator": "generator loss",
        "loss_classifier": "classifier loss",
        "loss_squared_error": "squared error",
        "seconds": "seconds",
    }
    epochs = result["by_epoch"]
    shown = [e for i, e in enumerate(epochs) if i in (0, len(epochs) - 1) or (i + 1) % _SHOWN_EPOCHS == 0]
    best = max(epochs, key=lambda epoch: float(epoch["ssim"]))
    is_gan = result.get("attack", "gan") == "gan"
    if not is_gan:
        del names["whole_picture"]  # published of `gan` alone, and a page holds few columns
    # An attack has its own losses, and runs from before the epoch was chosen have no distance.
    kept = [name for name in names if any(epoch.get(name) is not None for epoch in epochs)]
    return [
        *facts({name: value for name, value in result.items() if value != ""}, labels),
        f"Every fifth score; all are in the JSON file. The highest SSIM is {number(best['ssim'])}, "
        f"in epoch {best['epoch']}.",
        "",
        *table(
            [names[name] for name in kept], [[number(epoch.get(name)) for name in kept] for epoch in shown]
        ),
        *(_why_pictures_fade(best, epochs[-1]) if is_gan else ()),
    ]


def _why_pictures_fade(best: Record, last: Record) -> list[str]:
    """Return why the pictures of `gan` lose their contrast, with the losses of two epochs; nothing if they do not."""
    if best["epoch"] == last["epoch"]:
        return []
    return [
        "Why the pictures fade: the published discriminator has no biases, so that its logit scales with a picture's "
        "contrast, and flat mid-gray has a likelihood of 1/2 whatever its weights. A generator that is found out "
        f"gains by less contrast, down to a loss of ln 2 = {math.log(2):.3f}. From epoch {best['epoch']} to epoch "
        f"{last['epoch']} the generator's loss goes from {number(best['loss_generator'])} to "
        f"{number(last['loss_generator'])}, the discriminator's from {number(best['loss_discriminator'])} to "
        f"{number(last['loss_discriminator'])}.",
        "",
    ]


def secure_sum(result: Record) -> list[str]:
    """Return what the protocol of secure aggregation costs, by the number of hospitals."""
    rows = result["rows"]
    costs = {
        "hospitals": "hospitals",
        "hospital_seconds": "a hospital (s a round)",
        "cloud_seconds": "the cloud (s)",
        "plain_cloud_seconds": "the cloud, plain mean (s)",
        "dropped": "hospitals that vanish",
        "cloud_seconds_dropped": "the cloud then (s)",
    }
    wire = {
        "hospitals": "hospitals",
        "bytes_up_ratio": "bytes up, times the plain round's",
        "bytes_down_ratio": "bytes down",
        "relative_error": "error of the mean over its norm",
    }
    lines = [f"{result['parameters']:,} numbers an update, 2^32 as modulus; one process, one thread.", ""]
    for names in (costs, wire):
        lines += [*table(list(names.values()), [[number(row[n]) for n in names] for row in rows]), ""]
    return lines


def sum_faults(result: Record) -> list[str]:
    """Return what came of each fault that struck secure aggregation or the privacy ledger."""
    rows = []
    for fault in result["faults"]:
        out = "no sum" if "summed" in fault else ""
        if fault.get("summed"):
            out = f"the sum of {fault['summed']}, error {fault['error']:.0e}"
        survived = {True: "yes", False: "**no**", None: "skipped"}[fault["survived"]]
        rows.append([fault["fault"], out, "; ".join(fault["said"]), survived])
    struck = [fault for fault in result["faults"] if fault["survived"] is not None]
    survived = sum(fault["survived"] for fault in struck)
    return [
        f"{survived} of {len(struck)} faults were survived: the mean is that of the survivors within 1e-5 of its "
        "norm, or, where nothing may be revealed, no sum came out. Of five hospitals four must answer, of three all. "
        "Refusals are quoted, clipped values counted.",
        "",
        *table(["fault", "what came out", "what was said", "survived"], rows),
    ]


def secure_rounds(result: Record) -> list[str]:
    """Return what secure aggregation changes in whole studies: accuracy, seconds and bytes a round."""
    headers = ["study", "runs", "secure aggregation", "test accuracy", "seconds a round", "MB a round"]
    rows, ratios = [], []
    for study in result["studies"]:
        for side in ("without", "with"):
            rows.append(
                [
                    study["study"],
                    study["runs"],
                    side,
                    f"{percent(study['accuracy'][side])} %",
                    number(study["round seconds"][side]),
                    number(study["round bytes"][side] / 1e6),
                ]
            )
        ratios.append(
            f"{study['study']}: {study['points']:+.2f} points (the largest difference of two runs is "
            f"{study['largest points of a run']:.2f}), {study['round seconds ratio']:.2f} times the seconds and "
            f"{study['round bytes ratio']:.4f} times the bytes; "
            f"{percent(study['clipped share'])} % of values clipped."
        )
    return [
        "By `cipherward-coordinator simulate`, stem `private`, three hospitals one after the other. Seconds are the "
        "median without each run's first round, an evaluation on val included.",
        "",
        *table(headers, rows),
        *(f"- {line}" for line in ratios),
        "",
    ]
