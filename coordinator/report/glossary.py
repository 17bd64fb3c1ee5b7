"""The words of a report, in plain language, for readers who do not work with encrypted images."""

from __future__ import annotations

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
    ("stem", "The part of the model that meets the sealed image first."),
    ("test accuracy", "The share of images, unseen in training, whose class the model names correctly."),
)
