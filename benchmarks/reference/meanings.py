"""What every setting of a plan means, in the order of the reference page."""

from __future__ import annotations

INTRO = """# The plan

A plan is one flat YAML file. Every setting but `study` has a default. `simulate --set NAME=VALUE` changes
one, and a setting in a block is named with a dot: `--set privacy.epsilon=8`. An unknown name is refused, with
the nearest known one.

The column *who* says who decides on a setting in a federation of real hospitals:

- **policy**: every hospital agrees to this value with `cipherward-party accept`. It obeys its own `policy.yaml`, and
  refuses a message that differs.
- **coordinator**: the setting is about the coordinator's own work. It travels with the plan, and no hospital's
  training depends on it.
- **hospital**: the setting is about plain images. A hospital has its own in `party.yaml`, and ignores the plan's;
  `simulate` uses the plan's for its simulated hospitals.

How to choose: [training settings](../training.md), [images](../images.md),
[privacy of the updates](../privacy.md), [the audit's rule](../suite.md).
`make docs` writes this page from the program itself.
"""

GROUPS: dict[str, dict[str, str]] = {
    "Study and images": {
        "study": "Name of the study and of its folder.",
        "seed": "Sets the partition, the first weights and the order of images. No key and no noise follows from it.",
        "parties": "Number of hospitals.",
        "source": "`phantom` (embedded pictures), `folder`, or `npz` (a MedMNIST file).",
        "images": "Folder or file of the images, for sources other than `phantom`.",
        "labels": "A CSV file of path, label and, if known, patient, split and hospital.",
        "groups": "What tells patients apart: `folder`, `tags` (DICOM), `none`, or a regular expression on the path.",
        "class_list": "The consortium's classes, the same in every hospital.",
        "window": "Gray values to show, for images of more than 8 bits: `auto`, `full` or `LOW,HIGH`.",
        "fit": "How an image becomes square.",
        "background": "Gray value behind transparent pixels.",
        "counts": "Train, validation and test images of the phantom, over all hospitals.",
        "image_size": "Side length of the square images, in pixels.",
        "channels": "1: gray. 3: colour.",
        "partition": "How `simulate` deals the images to hospitals: evenly, or with skewed classes.",
        "alpha": "Concentration of the Dirichlet partition. Smaller values skew classes more.",
    },
    "Sealing": {
        "scheme": "The encryption scheme: see `cipherward-party schemes`.",
        "block": "Side length of a block, in pixels. For carried stems it is the patch of the model.",
        "key_scope": "What has a key of its own: the whole consortium, each hospital, or each image.",
        "scheme_options": "Options of the scheme by name.",
    },
    "Model": {
        "model": "A model name of timm.",
        "model_args": "Arguments of the model, from an allow-list.",
        "weights": "A safetensors file of public pretrained weights. Without one, weights are random at first.",
        "stem": "Where the part that meets the image first lives: trained on ciphertext, or carried by the key.",
        "stem_frozen": "With `private` and `plain`: the stem stays as the public weights have it.",
        "positions": "With `learn`: positions begin as the weights have them, or all alike.",
        "share": "What of the encoder is trained and sent: all of it, nothing, or low-rank adapters.",
        "lora_rank": "Rank of the adapters.",
        "lora_blocks": "How many of the encoder's last blocks get adapters; 0: all.",
        "lora_layers": "Which layers of a block get adapters.",
        "lora_alpha": "Scale of the adapters: their output is multiplied by `lora_alpha` / `lora_rank`.",
    },
    "Training": {
        "train": "By a federation, or by the provider alone on all sealed images.",
        "strategy": "How the coordinator combines updates: Flower's strategies.",
        "proximal_mu": "`fedprox`: weight of the proximal term in a hospital's loss.",
        "server_lr": "`fedadam`: learning rate of the coordinator.",
        "malicious": "`krum`: how many hospitals may be malicious.",
        "max_update_norm": "An update is at most so many times as long as the round's median. 0: no bound.",
        "wire": "Number format of what is sent. `bfloat16` halves the bytes.",
        "rounds": "Rounds of the federation. 0: an audit without a training.",
        "local_epochs": "Passes over a hospital's images in a round.",
        "batch": "Images in a step.",
        "optimizer": "The optimiser in a hospital. It starts afresh in every round.",
        "lr": "Largest learning rate.",
        "momentum": "`sgd`: momentum.",
        "weight_decay": "Weight decay.",
        "warmup_steps": "Steps in which the learning rate rises. It then falls to 0 as a cosine.",
        "layer_decay": "Each layer learns at so much of the rate of the layer above it. 1: all at one rate.",
        "stem_lr_scale": "The patch embedding learns at so many times the rate that it would have otherwise.",
        "position_lr_scale": "Positions learn at so many times the rate that they would have otherwise.",
        "frozen_rounds": "In so many first rounds only the stem and the head learn.",
        "clip": "Largest norm of a step's gradient.",
        "label_smoothing": "Share of a label that is spread over all classes.",
        "class_weights": "`balanced`: every class that a hospital holds weighs the same in its loss.",
        "precision": "Number format of the computation (bfloat16 is autocast).",
        "compile": "Compile the model with torch.compile.",
        "augment": "Mirror and shift images before they are sealed; `flip_affine` turns and scales them too. "
        "Needs `train: federated`: hospitals have keys.",
        "mixup": "Mix images in pairs, by shares from a Beta distribution with this parameter. 0: no mixing.",
        "quorum": "Replies that end a round. 0: one from every hospital.",
        "deadline_s": "Longest time that a round waits, in seconds.",
        "grace_s": "Time that late hospitals have after the quorum, in seconds.",
        "retries": "How often a round that missed its quorum is tried again.",
        "keep_updates": "Rounds whose updates are kept, so that `attack --study` can attack them.",
        "baseline": "Train the same model on plain images too, in `simulate`, to compare.",
        "wrong_keys": "Wrong keys whose accuracy `simulate` measures.",
    },
    "Privacy of the updates": {
        "privacy.epsilon": "Differential privacy: the bound ε over all rounds. Without it, there is none.",
        "privacy.delta": "Probability that the bound does not hold. Needed with ε.",
        "privacy.max_grad_norm": "The gradient of each unit is scaled down to this norm.",
        "privacy.unit": "What ε protects: all images of a patient, or one image.",
        "privacy.public_class_counts": "Declare that the number of images of each class is public.",
        "privacy.secure_aggregation": "The cloud learns sums of updates only. Without a value: on "
        "under stem `private` and `plain` with three or more hospitals and a strategy that averages.",
        "privacy.min_sum": "Least number of hospitals in a sum. Without a value: all of them.",
        "privacy.sum_clip": "Largest magnitude of one value of an update.",
    },
    "Audit": {
        "attacks": "Attacks by name. Those of the suite are the default; a verdict needs them.",
        "pools": "Pool sizes: how many sealed images an attack is given. They must rise.",
        "draws": "Repetitions with another key and other images.",
        "audit_rows": "Images to guess in a draw. Half of them are scored.",
        "gallery": "Plain images that a guess can name.",
        "budget_s": "Time that an attack has at one pool size, in seconds.",
    },
}
