"""A provisioned federation of two hospitals on loopback ports, and what the hospitals send to be enrolled."""

from __future__ import annotations

import socket
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.deployment.folder import DeploymentFolder
from coordinator.deployment.provision import provision
from crypto.identity import Identity

#: A small plan for two hospitals; its images are drawn.
PLAN = """\
study: small
parties: 2
source: phantom
counts: [64, 16, 16]
image_size: 32
scheme: block_pixel_shuffle
block: 8
model: vit_tiny_patch16_224
model_args: {patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2, global_pool: avg, class_token: false}
rounds: 3
batch: 16
lr: 1.0e-3
baseline: false
deadline_s: 120
grace_s: 2
"""


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def write_federation(folder: Path, **changes: str) -> Path:
    """Write a plan and FEDERATION.yaml, and return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan-in.yaml").write_text(PLAN)
    port, local_port = free_ports(2)
    settings = {
        "name": "north",
        "plan": "plan-in.yaml",
        "hospitals": "[hospital-0, hospital-1]",
        "address": "[127.0.0.1]",
        "port": str(port),
        "local_port": str(local_port),
        **changes,
    }
    path = folder / "federation-in.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    return path


def provisioned(folder: Path, **changes: str) -> DeploymentFolder:
    """Return a provisioned folder."""
    provision(write_federation(folder, **changes), folder / "deployment")
    return DeploymentFolder.open(folder / "deployment")


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a hospital's keys; return its SuperNode's private key and the file of two lines that it sends."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    no_passphrase = serialization.NoEncryption()
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, no_passphrase)
    )
    private.chmod(0o600)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.write_text(f"{Identity.generate(name).public.line}\n{line.decode()} {name}\n")
    return private, public
