"""Stems that were trained and are not the hospital's own yet (stem mode `private`).

    private/stems/STUDY/DIGEST/ROUND-REQUEST.safetensors   the stem that the training of a request gave

A training leaves its stem here. It is committed, which means moved to the stems that the hospital trains and
evaluates from, when the update that was trained with it may be seen: under secure aggregation when the hospital helps
to unmask the sum that its update is in; under differential privacy when the words of the reply are stored and their
charge is used up; otherwise right before the reply leaves. A training that was killed, and a round that was never
summed, leave nothing that a later message depends on.

A stem is stored before the words or the vector of its update. So whoever finds these finds the stem, too, or it was
committed before.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from crypto.files import disk_errors
from parties.sealing.place import Place
from parties.training.policy import Policy
from parties.training.policy_file import stem_path
from parties.training.stem import copy_stem
from parties.training.stem_file import read_stem_file, write_own_stem, write_stem_file

#: Rounds whose stems wait here: an update that comes again is of the last round or of the one before.
_KEPT_ROUNDS = 2
_BEST = "best"


def keep_provisional_stem(
    place: Place, policy: Policy, request: str, model: nn.Module, round_: int, best: int
) -> None:
    """Store a trained model's stem until its update may be seen. A frozen stem is not stored.

    Args:
        place: the hospital.
        policy: what it accepted of the study.
        request: the digest of the request that the model was trained for.
        model: its stem is in plain coordinates.
        round_: the round.
        best: the best round before it, whose stem is kept when this one is committed.
    """
    if policy.stem != "private" or policy.stem_frozen:
        return
    folder = _folder(place, policy)
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{round_:05d}-{request[:32]}.safetensors"
    write_stem_file(path, policy, {round_: copy_stem(model)}, {_BEST: str(best)})
    for other in folder.glob("*.safetensors"):
        number = other.name.partition("-")[0]
        if number.isdigit() and int(number) <= round_ - _KEPT_ROUNDS:
            other.unlink(missing_ok=True)


def commit_stem(place: Place, policy: Policy, request: str, keeps_later: bool = False) -> None:
    """Move the stem of a request to the hospital's own stems. One that was committed already stays as it is.

    A move that a kill cut short is made again by the next call.

    Args:
        place: the hospital.
        policy: what it accepted of the study.
        request: the digest of the request that the stem was trained for.
        keeps_later: whether stems of later rounds stay, because an earlier round is repeated.

    Raises:
        CipherwardError: if a stem cannot be read or written.
    """
    if policy.stem != "private" or policy.stem_frozen:
        return
    for path in sorted(_folder(place, policy).glob(f"*-{request[:32]}.safetensors")):
        stems, about = read_stem_file(path, policy)
        for round_, stem in stems.items():
            write_own_stem(place, policy, stem, round_, int(about[_BEST]), keeps_later)
        with disk_errors(path):
            path.unlink(missing_ok=True)


def _folder(place: Place, policy: Policy) -> Path:
    return stem_path(place, policy).with_suffix("")
