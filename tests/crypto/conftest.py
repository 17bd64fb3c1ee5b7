"""Fixtures of the tests of key files."""

from __future__ import annotations

from tests.support.keys import key_path, no_secrets

__all__ = ["key_path", "no_secrets"]
