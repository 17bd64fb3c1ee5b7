"""What keeps Flower and Ray quiet, offline and off proxies, wherever we start them.

Hospitals set proxies for all programs (HTTP_PROXY and its like). What is on this machine never goes through one.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

#: Environment variables that keep Flower and Ray quiet and offline.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Ray lowers its workers' priority to 15, but a study is what the user started the machine for.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}
#: This machine's own names. httpx takes no `[::1]`.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Variables that name proxies, as hospitals set them for all programs.
PROXY_NAMES = (
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
)
#: Lists of hosts that need no proxy. gRPC reads the first, and libraries differ on the case of the others.
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")


def proxy_exceptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` with this machine among them, and `no_grpc_proxy` if it is set.

    Args:
        environment: the environment variables. Hosts that are listed there stay listed; `*` stands for all.
    """
    listed = [host.strip() for name in _EXCEPTIONS for host in environment.get(name, "").split(",")]
    hosts = ",".join(dict.fromkeys([*filter(None, listed), *_LOOPBACK]))
    hosts = "*" if "*" in listed else hosts
    return {name: hosts for name in _EXCEPTIONS if name in environment or name != _EXCEPTIONS[0]}


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Let connections to this machine go around any proxy, in place. Other connections keep the user's proxies."""
    environment.update(proxy_exceptions(environment))


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without proxies, for programs that connect to this machine alone.

    Such a program must not fail because a proxy's address is wrong, or of a kind that a library does not know.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.lower().endswith("_proxy") or name in _EXCEPTIONS
    } | proxy_exceptions(environment)
