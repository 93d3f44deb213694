"""Loaded into each interpreter's run: the agent's side of the tests has nothing but the agent's own dependencies.

The tests' own side signs repositories, for which it needs `cryptography`. So that is there, but what verifies is told that
it is not: signatures are verified in pure Python, as on a host.
"""

from __future__ import annotations

import securesystemslib.signer._key as verifying
from hypothesis import HealthCheck, settings

_with_everything = verifying.SSlibKey.verify_signature


def _in_pure_python(key: verifying.SSlibKey, signature: verifying.Signature, data: bytes) -> None:
    verifying.CRYPTO_IMPORT_ERROR = "not on a host"
    try:
        _with_everything(key, signature, data)
    finally:
        verifying.CRYPTO_IMPORT_ERROR = None


verifying.SSlibKey.verify_signature = _in_pure_python  # type: ignore[assignment, method-assign]

# As tests/conftest.py has it, which is not loaded here since it needs the factory.
settings.register_profile("kmend", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kmend")
