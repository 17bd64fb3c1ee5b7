"""Enrolment: keys are made once, stay home with mode 0600, and are those that Flower asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from crypto.errors import CipherwardError
from crypto.identity import PublicIdentity
from crypto.unlock import create_private
from parties.agent.enrol import enrol, node_key_path
from parties.agent.identity_file import (
    ensure_identity,
    identity_path,
    public_identity_path,
    read_identity,
)
from tests.support.agents import make_place


def test_enrolling_writes_both_public_halves_and_keeps_the_private_ones(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    enrolment = enrol(place)
    identity, node_key = enrolment.path.read_text().splitlines()
    assert PublicIdentity.parse(identity) == enrolment.identity
    assert node_key.endswith(" hospital-0")
    public = load_ssh_public_key(node_key.encode())
    private = load_ssh_private_key(node_key_path(place).read_bytes(), None)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key() == public
    for path in (node_key_path(place), identity_path(place)):
        assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in enrolment.path.read_text()


def test_a_second_run_makes_no_new_keys_and_mends_the_public_file(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    first = enrol(place)
    first.path.write_text("spoilt")
    assert enrol(place) == first
    assert first.path.read_text() != "spoilt"


def test_a_damaged_or_open_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    enrol(place)
    path = node_key_path(place)
    data = path.read_text()
    path.write_text(data[: len(data) // 2])
    with pytest.raises(CipherwardError, match="damaged"):
        enrol(place)
    path.write_text(data)
    path.chmod(0o644)
    with pytest.raises(CipherwardError):
        enrol(place)
    assert path.read_text() == data


def test_an_identity_that_was_lost_or_exchanged_is_not_replaced_in_silence(tmp_path: Path) -> None:
    """Another one would sign the next scores, and every study would refuse them."""
    place, other = make_place(tmp_path / "a"), make_place(tmp_path / "b")
    public = enrol(place).identity
    enrol(other)
    path, kept = identity_path(place), identity_path(place).read_text()
    path.unlink()
    for use in (ensure_identity, read_identity, enrol):
        with pytest.raises(CipherwardError, match="no identity at") as error:
            use(place)
        assert "restore it from your backup" in error.value.hint and "fingerprint" in error.value.hint
    assert not path.exists() and PublicIdentity.parse(public_identity_path(place).read_text()) == public
    create_private(path, identity_path(other).read_text(), "an identity")
    for use in (ensure_identity, read_identity, enrol):
        with pytest.raises(CipherwardError, match=r"is not the identity that .*identity\.pub is of"):
            use(place)
    path.write_text(kept)
    renamed = replace(place, settings=place.settings.model_copy(update={"party": "renamed"}))
    assert ensure_identity(renamed).public.key == public.key
    path.unlink()
    public_identity_path(place).unlink()  # as the hint says
    assert enrol(place).identity.key != public.key
