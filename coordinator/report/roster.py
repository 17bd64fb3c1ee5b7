"""Whether scores are of a study: signed by one of its hospitals, about images under the key that it stated."""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.audit.scores import DrawScores, Scores
from coordinator.exchange.audit.signature import require_signer
from coordinator.exchange.manifest import FILE, read_manifest
from crypto.errors import CipherwardError


def require_on_roster(scores: Scores, study: Path, where: str) -> bool:
    """Check that scores are of a hospital of the study, by the study's manifest, if it has one.

    Returns whether it has one. Without a manifest nothing was compared, and no identity is the expected one.

    Unsigned scores are refused: a signature that was taken away would let every count be edited. So are scores of an
    earlier key of the hospital, whose images are not those of the study.

    Args:
        scores: The scores.
        study: The study's folder.
        where: The file of scores, as it stands in messages.

    Raises:
        CipherwardError: If they are not; the message says why.
    """
    if not (study / FILE).exists():
        if not study.is_dir():
            raise CipherwardError(f"no study at {study}", "name the study's folder, or leave --study out")
        return False  # the report says that unsigned scores are unsigned
    manifest = read_manifest(study / FILE)
    if scores.party not in manifest.roster:
        raise CipherwardError(
            f"{where} is of {scores.party}, which is no hospital of the study manifest in {study}",
            f"the hospitals of the study: {', '.join(manifest.roster)}",
        )
    require_signer(scores, manifest.roster[scores.party], where)
    stated = manifest.statements[scores.party].key_id
    for draw in scores.audited:
        if _is_under_own_key(draw) and draw.key_id != stated:
            raise CipherwardError(
                f"{where} is of images under key {draw.key_id}, and {scores.party} states key {stated} in "
                f"{study / FILE}",
                "name the scores of this study: those of an earlier key are of other sealed sets",
            )
    return True


def _is_under_own_key(draw: DrawScores) -> bool:
    """Return whether a draw is under the hospital's own key: by its role, or by its name in earlier scores."""
    return draw.set_name == "train" if draw.role is None else draw.role == "own_key"
