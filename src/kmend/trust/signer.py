"""Which certificate a module signature names, so that a host can say what would have to be enrolled.

The kernel looks its key up by the issuer and the serial number in the first SignerInfo (RFC 5652, section 5.3; the kernel's
`crypto/asymmetric_keys/pkcs7_trust.c`). This reads just these two out of the DER (X.690): the agent is pure Python, and what it
shows here is for people. Nothing is decided by it, the kernel verifies.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmend.core.errors import MalformedError

_INTEGER, _OID, _SEQUENCE, _SET, _CONTEXT_0 = 0x02, 0x06, 0x30, 0x31, 0xA0
_COMMON_NAME = bytes([0x55, 0x04, 0x03])
_MAX_NAME = 64
"""The bound of X.520 on a common name, in characters."""
_MAX_SERIAL = 20
"""RFC 5280, section 4.1.2.2, in bytes; a leading zero byte more where the first bit is set."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The certificate that a signature names.

    Attributes:
        name: the common name of its issuer, which for a self-signed certificate is its own; printable characters only.
        serial: its serial number in lower-case hexadecimal, as `openssl x509 -serial` and `mokutil` count it.
    """

    name: str
    serial: str


def signer_of(message: bytes) -> Signer:
    """The certificate that a detached PKCS#7 `message` names as its signer's.

    Raises:
        MalformedError: the message is not one that the kernel could use.
    """
    content = _read(message, _SEQUENCE)[0]
    _, rest = _read(content, _OID)
    signed = _read(_read(rest, _CONTEXT_0)[0], _SEQUENCE)[0]
    infos = [item for tag, item in _items(signed)[3:] if tag == _SET]
    if not infos:
        raise MalformedError("the module signature has no signer")
    info = _read(infos[-1], _SEQUENCE)[0]
    _, rest = _read(info, _INTEGER)
    issuer, rest = _read(_read(rest, _SEQUENCE)[0], _SEQUENCE)
    serial = _read(rest, _INTEGER)[0].lstrip(b"\0")
    if len(serial) > _MAX_SERIAL:
        raise MalformedError("the serial number in the module signature is too long")
    return Signer(_common_name(issuer), serial.hex())


def _common_name(name: bytes) -> str:
    for _, relative in _items(name):
        for _, attribute in _items(relative):
            kind, rest = _read(attribute, _OID)
            if kind == _COMMON_NAME:
                text = _element(rest)[1].decode(errors="replace")
                return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_NAME])
    return ""


def _items(content: bytes) -> list[tuple[int, bytes]]:
    """The elements that follow each other in `content`: tag and content of each."""
    found = []
    while content:
        tag, inner, content = _element(content)
        found.append((tag, inner))
    return found


def _read(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the first element, which has to have that tag, and what follows it."""
    actual, content, rest = _element(data)
    if actual != tag:
        raise MalformedError("the module signature is not a PKCS#7 message in DER")
    return content, rest


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the first element; tags are of one byte here, lengths of up to four."""
    if len(data) < 2:
        raise MalformedError("the module signature is cut short")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
        if not 2 < start <= 6:
            raise MalformedError("the module signature has a length that DER does not have")
    if start + length > len(data):
        raise MalformedError("the module signature is cut short")
    return data[0], data[start : start + length], data[start + length :]
