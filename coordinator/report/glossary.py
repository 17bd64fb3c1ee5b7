"""The words of a report, in plain language, for readers who do not work with encrypted images."""

from __future__ import annotations

from collections.abc import Iterable

#: Each word, and what it means; in the order in which a reader meets them.
GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "sealed image",
        "An image that the hospital scrambled with a secret key before it left: a ciphertext of learnable "
        "(perceptual) image encryption.",
    ),
    ("scheme", "The method of scrambling. It is public; only the key is secret."),
    (
        "key",
        "The secret numbers that decide how images are scrambled. Who has the key can open the images.",
    ),
    (
        "hospital, cloud",
        "Who holds the patients' images and the key, and who holds sealed images and the model.",
    ),
    ("adversary", "Somebody in the cloud who tries to see the images, without the key."),
    ("attack", "A method by which the adversary tries it. Each attack on this page was really run."),
    (
        "guess",
        "The picture that an attack returns for a sealed image. It is frozen before anybody compares it.",
    ),
    ("pool", "The sealed images that an attack is given together. More images make an attack easier."),
    ("draw", "One repetition of the audit with another key and other images."),
    (
        "broken",
        "Enough draws show that an attack opens, finds or shows images (K, R or V, defined under Findings).",
    ),
    ("not broken", "The attacks that were run failed. Others may succeed."),
    ("linkable", "A sealed image can be told to be of a given image, without showing the picture."),
    (
        "baseline",
        "What can be reached without any attack, such as the average image. An attack must do better.",
    ),
    ("similarity (SSIM)", "How alike two pictures are: 1 is identical, and about 0 is unrelated."),
    (
        "95 % bounds",
        "A range around a share that was counted in few cases. The true share is in such a range 95 times in 100.",
    ),
    ("control", "A case whose answer is known beforehand. It shows whether the audit itself works."),
    ("update", "What a hospital's training sends to the cloud instead of images."),
    (
        "confirmed",
        "Whoever already has an image learns from an update that it took part in the training.",
    ),
    ("stem", "The part of the model that meets the sealed image first."),
    ("test accuracy", "The share of images, unseen in training, whose class the model names correctly."),
)

#: What each attack does. The verdict names attacks, so a page says what those are that were run.
ATTACKS: dict[str, str] = {
    "as_is": "No attack: looks at the sealed image as it is.",
    "as_is_each": "No attack: looks at each sealed image as it is, in the negative, turned or shifted.",
    "leading_bit": "Chooses for each pixel between its value and its negative, by the leading bit.",
    "edge_guided": "Chooses for each pixel between its value and its negative, by the edges around it.",
    "minimum_difference": "Chooses for each pixel among its possible values the one closest to its neighbours.",
    "brute_force": "Tries all keys that a small random seed can give.",
    "jigsaw": "Puts the blocks of a single sealed image together, like a puzzle.",
    "pooled_key_recovery": "Finds the key: one order of blocks and pixels, or one change of values, must make "
    "pictures of all images of the pool.",
    "moment_matching": "Finds the key, or pictures, by giving sealed images the statistics of public images of the "
    "same kind.",
    "gan": "A network that was trained on public images draws the plain image (GAN).",
    "sia_gan": "A network that was trained on public images draws the plain image (SIA-GAN).",
    "itn": "A network that was trained on public images draws the plain image (ITN).",
    "reidentify": "Says which of some known images a sealed image is of.",
    "match_tokens": "Says which of some known images a sealed image is of, by matching the two sets as a whole.",
    "learned_stem": "Finds the key with labelled sealed images and a public model.",
    "weights": "Reads the key off the weights of a training.",
    "updates": "Recovers or confirms images from the updates of a training.",
    "known_pairs": "Finds the key, or the pictures, from pairs of plain and sealed images.",
    "chosen_plaintext": "Finds the key from sealed images of its own choice.",
    "keystream_recovery": "Finds one keystream that was added to, or XORed with, all images.",
    "substitution_recovery": "Finds one exchange of gray levels that all images share.",
    "line_order_recovery": "Finds one order of rows and one of columns that all images share.",
    "pixel_order_recovery": "Finds one order of all pixels that all images share.",
    "order_and_keystream_recovery": "Finds one order of all pixels and one keystream over it that all images share.",
    "order_and_table_recovery": "Finds one order of all pixels and one exchange of gray levels that all images "
    "share.",
    "plane_orders_recovery": "Finds one order of the pixels for each bit plane that all images share.",
    "bit_order_recovery": "Finds where one order of all bits, with a keystream or without, put the highest bits.",
    "chained_recovery": "Undoes that values were chained to the ciphertext before them, and seeks a keystream, an "
    "exchange of gray levels and an order of pixels in what is left.",
}
#: How the audit of a Python function names the key recovery of a scheme: etc_recovery/8 takes blocks of 8 pixels.
_RECOVERY = "_recovery"
_OTHER_RECOVERY = (
    "The key recovery that was written for the scheme of that name, tried on these sealed images. A number behind "
    "the name is the side of the blocks, in pixels."
)


def attack_words(attacks: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return each attack that a page names with what it does; key recoveries of other schemes share one entry."""
    names = list(dict.fromkeys(attacks))
    others = [name for name in names if name not in ATTACKS and name.split("/")[0].endswith(_RECOVERY)]
    known = tuple((name, ATTACKS[name]) for name in names if name in ATTACKS)
    return known + (((f"{others[0]} and the like", _OTHER_RECOVERY),) if others else ())
