"""The folder of a deployment, and the settings of a federation.

FOLDER/                     mode 0700
  federation.yaml plan.yaml study.json     what was provisioned
  ca/ca.crt ca.key          the authority; the key may be moved to another place
  server/server.pem         the server's certificate and private key
  app/bundle.fab            the app that hospitals approve, as it is sent to them
  kits/HOSPITAL.kit         what each hospital is sent
  roster.json               who is enrolled; {} if nobody is
  approvals/HOSPITAL.json   the hospitals' signed approvals of the bundle, as `carry` took them
  state/                    Flower's database, home and shared secret
  studies/NAME/             plan.yaml, study.json and cloud/: what a run reads and writes
  logs/                     what Flower's programs print
  serving.json              where `serve` listens while it runs
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from coordinator.exchange.settings import Settings, build, read_yaml
from crypto.errors import CipherwardError
from crypto.files import read_regular
from crypto.ownership import require_access

FILE = "federation.yaml"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_HOSPITAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FederationSettings(Settings):
    """What an administrator writes into FEDERATION.yaml.

    Attributes:
        name: the federation's name.
        plan: the plan's file, relative to FEDERATION.yaml.
        study: the study manifest's file, or "".
        hospitals: the hospitals' names, one for each party of the plan.
        address: host names and IP addresses of the coordinator; hospitals dial the first.
        port: the port that hospitals reach.
        listen: the address of the interface that hospitals reach; "" for 127.0.0.1 if `address` is this machine's
            own, and for all interfaces otherwise.
        local_port: the port on the loopback interface for the coordinator's own processes.
        days: how long the server's certificate and the kits are valid.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,47}$")
    plan: str
    study: str = ""
    hospitals: tuple[str, ...] = Field(min_length=1)
    address: tuple[str, ...] = Field(min_length=1)
    port: int = Field(default=8443, ge=1, le=65535)
    listen: str = ""
    local_port: int = Field(default=8444, ge=1, le=65535)
    days: int = Field(default=365, ge=1, le=3650)

    @field_validator("hospitals")
    @classmethod
    def _check_hospitals(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HOSPITAL.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a hospital: letters, digits, '.', '_' and '-'")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two hospitals have the same name")
        return names

    @field_validator("address")
    @classmethod
    def _check_address(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _is_address(host) and not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is neither a host name nor an IP address")
        return hosts

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, address: str) -> str:
        if address and not _is_address(address):
            raise ValueError(f"{address!r} is no IP address of an interface")
        return address

    @property
    def dial(self) -> str:
        """host:port that hospitals dial."""
        host = self.address[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def interface(self) -> str:
        """The address of the interface that hospitals reach."""
        if self.listen:
            return self.listen
        return "127.0.0.1" if all(_is_local(host) for host in self.address) else "0.0.0.0"


def read_federation(path: Path) -> FederationSettings:
    """Read FEDERATION.yaml. Raise CipherwardError for the first setting that is wrong."""
    settings = build(FederationSettings, read_yaml(path, "federation"), str(path))
    if settings.port == settings.local_port:
        raise CipherwardError(f"{path}: port and local_port are the same", "choose two ports")
    return settings


def read_part(path: Path) -> bytes:
    """Return the content of a file that `provision` wrote. Raise CipherwardError if it cannot be read."""
    try:
        return read_regular(path)
    except OSError as error:
        raise CipherwardError(
            f"cannot read {path}: {error.strerror}", "restore it from your backup, or provision again"
        ) from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


@dataclass(frozen=True)
class DeploymentFolder:
    """The paths of one deployment.

    Attributes:
        root: its folder, absolute.
    """

    root: Path

    @classmethod
    def open(cls, folder: Path) -> DeploymentFolder:
        """Return a provisioned folder. Raise CipherwardError if it is none."""
        place = cls(folder.resolve())
        if not (place.root / FILE).is_file():
            raise CipherwardError(
                f"{folder} is no provisioned federation",
                f"make one: cipherward-coordinator provision FEDERATION.yaml {folder}",
            )
        # Without a look into them, a server that runs is none, and what is there is to be restored.
        require_access(place.root, "app", "approvals", "server", "state")
        return place

    @property
    def settings(self) -> FederationSettings:
        """The settings it was provisioned with."""
        return read_federation(self.root / FILE)

    @property
    def plan(self) -> Path:
        """The provisioned plan."""
        return self.root / "plan.yaml"

    @property
    def study(self) -> Path:
        """The provisioned study manifest; it may be missing."""
        return self.root / "study.json"

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate."""
        return self.root / "ca" / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's private key; it may have been moved away."""
        return self.root / "ca" / "ca.key"

    @property
    def server(self) -> Path:
        """The server's certificate and private key, in one file."""
        return self.root / "server" / "server.pem"

    @property
    def bundle(self) -> Path:
        """The app bundle."""
        return self.root / "app" / "bundle.fab"

    @property
    def roster(self) -> Path:
        """Who is enrolled."""
        return self.root / "roster.json"

    @property
    def approvals(self) -> Path:
        """The hospitals' approvals of the bundle."""
        return self.root / "approvals"

    @property
    def state(self) -> Path:
        """Flower's database, home and shared secret."""
        return self.root / "state"

    @property
    def database(self) -> Path:
        """Flower's SQLite database."""
        return self.state / "superlink.db"

    @property
    def secret(self) -> Path:
        """The secret that the SuperLink shares with the process that starts ServerApps."""
        return self.state / "superexec.secret"

    @property
    def serving(self) -> Path:
        """Where `serve` listens while it runs."""
        return self.root / "serving.json"

    def read_bundle(self) -> bytes:
        """Return the app bundle. Raise CipherwardError if it cannot be read."""
        return read_part(self.bundle)

    def kit(self, hospital: str) -> Path:
        """Return the file of a hospital's kit."""
        return self.root / "kits" / f"{hospital}.kit"

    def approval(self, hospital: str) -> Path:
        """Return the file of a hospital's approval."""
        return self.approvals / f"{hospital}.json"

    def log(self, program: str) -> Path:
        """Return the file that gets what a program prints."""
        return self.root / "logs" / f"{program}.log"

    @property
    def studies(self) -> Path:
        """What runs read and write."""
        return self.root / "studies"

    def study_folder(self, name: str) -> Path:
        """Return the folder of a study."""
        return self.studies / name
