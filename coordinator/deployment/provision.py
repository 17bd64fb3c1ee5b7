"""Make a deployment's folder: authority, server certificate, app bundle, and a start-up kit for each hospital.

Running it again replaces what has changed and keeps what must stay: the authority, the server's certificate while it
is valid for the addresses, and everything that was enrolled or trained.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from coordinator.deployment.bundle import build_bundle, bundle_digest
from coordinator.deployment.certificates import (
    NEW_AUTHORITY,
    WARN_DAYS,
    Certified,
    check_server,
    is_private_key,
    make_ca,
    make_server,
    read_expiry,
    read_names,
    write_private,
)
from coordinator.deployment.enrolment import provide_roster, read_roster
from coordinator.deployment.folder import (
    FILE,
    DeploymentFolder,
    FederationSettings,
    read_federation,
    read_part,
)
from coordinator.exchange.kit import CA, PLAN, SCHEMA, STUDY, Kit, KitManifest, read_kit, write_kit
from coordinator.exchange.manifest import StudyManifest, read_manifest
from coordinator.exchange.plan import Plan, placed_text, read_plan
from coordinator.exchange.settings import mark_whole
from coordinator.exchange.statement import plan_digest
from coordinator.exchange.versions import installed_versions
from crypto.errors import CipherwardError
from crypto.files import disk_errors, folder_lock, write_bytes, write_text
from crypto.ownership import read_private
from crypto.plural import counted

#: What the folder of a deployment holds beside federation.yaml, which is written last (folder.py).
_PARTS = (
    *("ca", "server", "state", "app", "kits", "plan.yaml", STUDY),
    *("roster.json", "approvals", "studies", "logs", "serving.json"),
)

#: Bytes of the secret that the SuperLink shares with the process that starts ServerApps.
_SECRET_BYTES = 32

Clock = Callable[[], datetime.datetime]


def now_utc() -> datetime.datetime:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def provision(file: Path, folder: Path, clock: Clock = now_utc) -> dict[str, Kit]:
    """Make or update a deployment's folder, and return the kits by hospital.

    Args:
        file: FEDERATION.yaml.
        folder: the deployment's folder.
        clock: returns the time, in UTC.

    Raises:
        CipherwardError: if the settings or the plan are wrong, or if the folder holds something else.
    """
    settings = read_federation(file)
    plan_file = (file.parent / settings.plan).resolve()
    plan = read_plan(plan_file, needs_images=False)
    if plan.parties != len(settings.hospitals):
        raise CipherwardError(
            f"{file} names {counted(len(settings.hospitals), 'hospital')}, and the plan is for {plan.parties}",
            "give the plan's `parties` and `hospitals` the same number",
        )
    if plan.train != "federated":
        raise CipherwardError(
            "this plan trains centrally: there is nothing to deploy", "set train: federated"
        )
    study = (file.parent / settings.study).resolve() if settings.study else None
    if study is not None:
        _check_manifest(read_manifest(study), settings, plan)
    place = DeploymentFolder(folder.resolve())
    if place.root.exists() and not _is_ours(place):
        raise CipherwardError(f"{folder} holds something else", "choose an empty folder")
    bundle = build_bundle()
    with disk_errors(place.root):
        place.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.root.chmod(0o700)
    with folder_lock(place.root):
        provide_roster(place)  # before an authority is made for a federation that lost more than that
        _provide_authority(place, settings, clock())
        _provide_server(place, settings, clock())
        provide_secret(place)
        for path, data in ((place.plan, placed_text(plan_file, plan)), (place.bundle, bundle)):
            _write(path, data)
        if study is not None:
            _write(place.study, study.read_bytes())
        else:
            # One of an earlier plan would go into the kits, and nobody could join.
            with disk_errors(place.study):
                place.study.unlink(missing_ok=True)
        kits = write_kits(place, settings, clock())
        # Written last: a folder with it is whole.
        local = settings.model_copy(update={"plan": place.plan.name, "study": STUDY if study else ""})
        text = yaml.safe_dump(local.model_dump(mode="json"), sort_keys=False)
        write_text(place.root / FILE, mark_whole(text))
    return kits


def provide_secret(place: DeploymentFolder) -> None:
    """Make the secret that the server's two programs share, unless there is a whole one. Nobody else knows it."""
    with disk_errors(place.secret):
        is_whole = place.secret.exists() and place.secret.stat().st_size == _SECRET_BYTES
    if not is_whole:
        write_private(place.secret, secrets.token_bytes(_SECRET_BYTES))


def renew(folder: Path, ca_key: Path | None = None, clock: Clock = now_utc) -> dict[str, Kit]:
    """Give the server a new key and certificate of the same authority, and write the kits again.

    Hospitals that have joined need nothing: they trust the authority.

    Args:
        folder: the deployment's folder.
        ca_key: the authority's private key, if it is kept elsewhere.
        clock: returns the time, in UTC.

    Raises:
        CipherwardError: if the authority's key is missing or wrong, or if the authority has expired.
    """
    place = DeploymentFolder.open(folder)
    settings = place.settings
    with folder_lock(place.root):
        remedy = f"name the place where you keep it: cipherward-coordinator renew {folder} --ca-key FILE"
        _make_server(place, settings, ca_key or place.ca_key, clock(), remedy)
        return write_kits(place, settings, clock(), is_new=True)


def write_kits(
    place: DeploymentFolder, settings: FederationSettings, now: datetime.datetime, *, is_new: bool = False
) -> dict[str, Kit]:
    """Write a kit for every hospital that may join, remove those of all others, and return the kits.

    A revoked hospital gets none until it is enrolled again, with new keys.

    is_new: replace kits in which nothing but the dates would change, too.
    """
    files: dict[str, bytes] = {CA: read_part(place.ca_certificate), PLAN: read_part(place.plan)}
    if place.study.exists():
        files[STUDY] = read_part(place.study)
    end = min(now + datetime.timedelta(days=settings.days), read_expiry(place.ca_certificate))
    kits = {}
    with disk_errors(place.kit("x")):
        place.kit("x").parent.mkdir(exist_ok=True)
    revoked = {name for name, entry in read_roster(place).items() if entry.is_revoked}
    hospitals = [name for name in settings.hospitals if name not in revoked]
    for hospital in hospitals:
        manifest = KitManifest(
            schema=SCHEMA,
            federation=settings.name,
            hospital=hospital,
            address=settings.dial,
            bundle_sha256=bundle_digest(place.read_bundle()),
            versions=installed_versions(),
            created=now.isoformat(),
            expires=end.isoformat(),
            files={},
        )
        kits[hospital] = _write_kit(place.kit(hospital), manifest, files, now, is_new)
    for path in place.kit("x").parent.glob("*.kit"):
        if path.stem not in hospitals:
            path.unlink()
    return kits


def _is_ours(place: DeploymentFolder) -> bool:
    """Say whether a folder is empty or a deployment's, whole or not.

    One that a killed run began holds its lock, and one that was restored from a backup its authority. Both hold parts
    of a deployment alone, and nothing of a hospital's.
    """
    names = [path.name for path in place.root.iterdir()]
    if not names or FILE in names:
        return True
    has_begun = ".lock" in names or place.ca_certificate.exists()
    return has_begun and all(name in _PARTS or name.startswith(".") for name in names)


def _check_manifest(manifest: StudyManifest, settings: FederationSettings, plan: Plan) -> None:
    """Raise CipherwardError unless the study manifest is about this plan and these hospitals."""
    if manifest.plan_sha256 != plan_digest(plan):
        raise CipherwardError(
            "the study manifest is about another plan",
            "put the agreed plan back; or let the hospitals accept and declare anew, and make another manifest: "
            "cipherward-coordinator manifest PLAN STATEMENT...",
        )
    if set(manifest.hospitals) != set(settings.hospitals):
        raise CipherwardError(
            f"the study manifest is about {', '.join(sorted(manifest.hospitals))}",
            "give `hospitals` the same names",
        )


def _write_kit(
    path: Path, manifest: KitManifest, files: Mapping[str, bytes], now: datetime.datetime, is_new: bool
) -> Kit:
    """Write a hospital's kit, unless the one that it may have already says the same and is not about to expire."""
    old = _read_kit(path) if not is_new else None
    if old is not None:
        dates = {"created": old.manifest.created, "expires": old.manifest.expires}
        same = manifest.model_copy(update={**dates, "files": old.manifest.files}) == old.manifest
        if same and dict(old.files) == dict(files) and (old.expires - now).days >= WARN_DAYS:
            return old
    return write_kit(path, manifest, files)


def _read_kit(path: Path) -> Kit | None:
    """Return the kit in a file of ours; None without one that is whole: it is written again."""
    try:
        return read_kit(path)
    except CipherwardError:
        return None


def _provide_authority(
    place: DeploymentFolder, settings: FederationSettings, now: datetime.datetime
) -> None:
    """Make the authority unless there is one."""
    if place.ca_certificate.exists():
        return
    if place.server.exists():
        raise CipherwardError(f"{place.ca_certificate} is missing", "restore it from your backup")
    ca = make_ca(settings.name, now)
    # The certificate is written last. A key without one has signed nothing, and is replaced by the next run.
    write_private(place.ca_key, ca.key)
    _write(place.ca_certificate, ca.certificate)


def _provide_server(place: DeploymentFolder, settings: FederationSettings, now: datetime.datetime) -> None:
    """Make the server's certificate unless there is one that is valid for these addresses."""
    if place.server.exists():
        check_server(place.ca_certificate, place.server)
        if read_expiry(place.server) > now and read_names(place.server) >= set(settings.address):
            return
    # `renew` knows the addresses of before only, so that it is no remedy where they changed.
    remedy = "the server needs a new certificate: put the key back there, and run this command again"
    _make_server(place, settings, place.ca_key, now, remedy)


def _make_server(
    place: DeploymentFolder,
    settings: FederationSettings,
    ca_key: Path,
    now: datetime.datetime,
    remedy: str,
) -> None:
    """Write a new key and certificate of the server. remedy: what to do if the authority's key is not there."""
    hint = f"{remedy}; if the key is lost: {NEW_AUTHORITY}"
    try:
        key = read_private(ca_key, "CA's private key")
    except CipherwardError as error:
        # A medium may know no modes.
        copy = f"or copy it to a file of mode 0600, and name that: install -m 600 {ca_key} COPY"
        raise CipherwardError(error.message, f"{error.hint}; {copy}") from None
    except FileNotFoundError:
        raise CipherwardError(f"the CA's private key is not at {ca_key}", hint) from None
    except OSError as error:
        raise CipherwardError(
            f"cannot read the CA's private key {ca_key}: {error.strerror}", hint
        ) from None
    if not is_private_key(key):
        raise CipherwardError(f"the CA's private key {ca_key} is damaged, or no such key", hint)
    ca = Certified(read_part(place.ca_certificate), key)
    server = make_server(ca, settings.address, settings.days, now)
    # One file for both: a kill between two would leave a key that belongs to no certificate.
    write_private(place.server, server.certificate + server.key)


def _write(path: Path, data: bytes) -> None:
    """Write a file, atomically, unless it has these bytes."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
