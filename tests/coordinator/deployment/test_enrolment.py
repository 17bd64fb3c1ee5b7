"""The roster: who is taken, who is refused and why, and how Flower is made to agree with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.deployment.control import Node
from coordinator.deployment.enrolment import (
    enrol,
    node_key_pem,
    read_public_keys,
    read_roster,
    reconcile,
    revoke,
)
from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.provision import provision, renew
from crypto.errors import CipherwardError
from crypto.identity import Identity
from tests.support.deployment import provisioned, write_keys


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> DeploymentFolder:
    return provisioned(tmp_path_factory.mktemp("provisioned"))


@pytest.fixture
def place(template: DeploymentFolder) -> DeploymentFolder:
    template.roster.write_text("{}")
    return template


class FakeControl:
    """What Flower has registered."""

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}

    def nodes(self) -> list[Node]:
        return [Node(node, key, False, None) for node, key in self.keys.items()]

    def register(self, public_key: bytes, name: str) -> int:
        assert public_key not in self.keys.values()
        self.keys[len(self.keys) + 100] = public_key
        return len(self.keys) + 99

    def unregister(self, node_id: int) -> None:
        del self.keys[node_id]


def test_the_roster_and_flower_agree_whatever_happened_before(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    control = FakeControl()
    lines: list[str] = []
    for name in ("hospital-0", "hospital-1"):
        assert enrol(place, read_public_keys(write_keys(tmp_path, name)[1]))
    control.keys[7] = b"whom nobody enrolled"
    names = reconcile(read_roster(place), control, lines.append)  # type: ignore[arg-type]
    assert sorted(names.values()) == ["hospital-0", "hospital-1"] and 7 not in control.keys
    assert reconcile(read_roster(place), control, lines.append) == names  # type: ignore[arg-type]
    revoke(place, "hospital-0")
    names = reconcile(read_roster(place), control, lines.append)  # type: ignore[arg-type]
    assert list(names.values()) == ["hospital-1"]
    assert list(control.keys.values()) == [node_key_pem(read_roster(place)["hospital-1"].node_key)]


def test_enrolling_twice_is_once_and_other_keys_are_refused(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    first = write_keys(tmp_path / "a", "hospital-0")[1]
    assert enrol(place, read_public_keys(first)) and not enrol(place, read_public_keys(first))
    before = place.roster.read_bytes()
    with pytest.raises(CipherwardError, match="is enrolled with other keys"):
        enrol(place, read_public_keys(write_keys(tmp_path / "b", "hospital-0")[1]))
    assert place.roster.read_bytes() == before


def test_a_revoked_key_is_never_taken_again_but_a_new_one_is(
    place: DeploymentFolder, tmp_path: Path
) -> None:
    first = write_keys(tmp_path / "a", "hospital-0")[1]
    enrol(place, read_public_keys(first))
    assert revoke(place, "hospital-0") and not revoke(place, "hospital-0")
    with pytest.raises(CipherwardError, match="was revoked"):
        enrol(place, read_public_keys(first))
    assert enrol(place, read_public_keys(write_keys(tmp_path / "b", "hospital-0")[1]))
    assert not read_roster(place)["hospital-0"].is_revoked


def test_two_hospitals_never_share_a_key(place: DeploymentFolder, tmp_path: Path) -> None:
    first, second = write_keys(tmp_path, "hospital-0")[1], write_keys(tmp_path, "hospital-1")[1]
    enrol(place, read_public_keys(first))
    node_key = first.read_text().splitlines()[1]
    second.write_text(f"{second.read_text().splitlines()[0]}\n{node_key}\n")
    with pytest.raises(CipherwardError, match="hospital-0 uses the same key"):
        enrol(place, read_public_keys(second))


def test_strangers_are_refused(place: DeploymentFolder, tmp_path: Path) -> None:
    with pytest.raises(CipherwardError, match="hospital-9 is no hospital of this federation"):
        enrol(place, read_public_keys(write_keys(tmp_path, "hospital-9")[1]))
    with pytest.raises(CipherwardError, match="is not enrolled"):
        revoke(place, "hospital-1")


def line_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def test_files_that_are_not_two_public_keys_are_refused(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "hospital-0")
    identity, node_key = public.read_text().splitlines()
    cases = {
        private.read_text(): "holds a private key",
        f"{identity}\n": "has not two lines",
        f"{identity}\n{node_key}\n{node_key}\n": "has not two lines",
        f"{node_key}\n{identity}\n": "this is no public identity",
        f"{identity}\nssh-rsa AAAA\n": "no public key of OpenSSH",
        f"{identity}\n{line_of(ed25519.Ed25519PrivateKey.generate())}\n": "not on a NIST curve",
        f"{identity}\n{node_key}{'x' * 5000}\n": "has not two lines",
        f"{identity}\n{node_key} é\n": "cannot read",
        Identity.generate("hospital-0").reveal(): "holds a private key",
    }
    for text, message in cases.items():
        public.write_text(text, encoding="utf-8")
        with pytest.raises(CipherwardError, match=message):
            read_public_keys(public)
    with pytest.raises(CipherwardError, match="no public keys at"):
        read_public_keys(tmp_path / "missing.pub")


def test_a_damaged_roster_is_named(place: DeploymentFolder) -> None:
    for text in ("[]", "{", '{"hospital-0": {"identity": 1}}'):
        place.roster.write_text(text)
        with pytest.raises(CipherwardError, match=r"roster"):
            read_roster(place)


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "it is empty"), ('{"a": ', "line 1 is no JSON"), ("[]", "it is no JSON object")],
)
def test_a_roster_that_was_emptied_or_cut_says_what_to_do(tmp_path: Path, content: str, why: str) -> None:
    place = provisioned(tmp_path)
    place.roster.write_text(content)

    with pytest.raises(CipherwardError) as error:
        read_roster(place)

    assert str(place.roster) in error.value.message
    assert why in error.value.message
    assert "restore it from your backup" in error.value.hint
    assert "revoke again" in error.value.hint


def test_a_roster_that_is_missing_is_not_one_of_nobody(tmp_path: Path) -> None:
    """A server would remove every hospital, and take a revoked key again."""
    place = provisioned(tmp_path)
    assert read_roster(place) == {}
    keys = read_public_keys(write_keys(tmp_path / "keys", "hospital-0")[1])
    enrol(place, keys)
    place.roster.unlink()
    uses: list[Callable[[], object]] = [
        lambda: read_roster(place),
        lambda: enrol(place, keys),
        lambda: revoke(place, "hospital-0"),
        lambda: renew(place.root),
    ]
    for use in uses:
        with pytest.raises(CipherwardError, match=r"roster\.json is missing") as error:
            use()
        assert "restore it from your backup" in error.value.hint and "revoke again" in error.value.hint
    assert not place.roster.exists()


@pytest.mark.parametrize(
    "used", ["approvals/hospital-0.json", "studies/small/plan.yaml", "state/superlink.db"]
)
def test_provision_makes_no_roster_for_a_federation_that_had_one(tmp_path: Path, used: str) -> None:
    place = provisioned(tmp_path)
    place.roster.unlink()
    provision(tmp_path / "federation-in.yaml", place.root)  # nobody can have been enrolled
    assert read_roster(place) == {}
    place.roster.unlink()
    (place.root / used).parent.mkdir(parents=True, exist_ok=True)
    (place.root / used).write_text("")
    with pytest.raises(CipherwardError, match="was in use"):
        provision(tmp_path / "federation-in.yaml", place.root)
    assert not place.roster.exists()
    place.roster.write_text("{}")  # as the hint says
    provision(tmp_path / "federation-in.yaml", place.root)
