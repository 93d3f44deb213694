"""The kernel's module signature: how it hangs at the end of a module file.

A signed module is the module, then a PKCS#7 message, then `struct module_signature` (12 bytes, the message's length
big-endian, `id_type` 2 for PKCS#7, all else 0), then a magic line (`include/linux/module_signature.h`,
`kernel/module_signature.c: mod_check_sig`, `scripts/sign-file.c`). kmend keeps the message apart and joins them on the host.
"""

from __future__ import annotations

import struct

from kmend.core.errors import MalformedError

MAGIC = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3xI")
_PKEY_ID_PKCS7 = 2
_DER_SEQUENCE = 0x30


def join(module: bytes, message: bytes) -> bytes:
    """`module` with the detached PKCS#7 `message` appended as the kernel wants it.

    Raises:
        MalformedError: the message is not DER, or the module already carries a signature.
    """
    if not message or message[0] != _DER_SEQUENCE:
        raise MalformedError("the module signature is not a PKCS#7 message in DER")
    if module.endswith(MAGIC):
        raise MalformedError("the module already carries a signature")
    return module + message + _TRAILER.pack(0, 0, _PKEY_ID_PKCS7, 0, 0, len(message)) + MAGIC


def split(signed: bytes) -> tuple[bytes, bytes]:
    """The module and its PKCS#7 message; the message is empty if the file carries no signature.

    Raises:
        MalformedError: the magic is there but what precedes it is not a PKCS#7 signature.
    """
    if not signed.endswith(MAGIC):
        return signed, b""
    end = len(signed) - len(MAGIC) - _TRAILER.size
    if end < 0:
        raise MalformedError("the module signature's trailer is cut short")
    algorithm, digest, kind, signer_length, key_length, length = _TRAILER.unpack_from(signed, end)
    if (algorithm, digest, kind, signer_length, key_length) != (0, 0, _PKEY_ID_PKCS7, 0, 0) or not 0 < length <= end:
        raise MalformedError("the module signature's trailer is not one of PKCS#7")
    return signed[: end - length], signed[end - length : end]
