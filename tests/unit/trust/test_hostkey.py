"""The host's key in pure Python, against RFC 8032 (7.1) and against cryptography."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kmend.trust import hostkey

VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465514\
1438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d2\
91612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027b\
eceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "content", "signature"), VECTORS)
def test_vectors(seed: str, public: str, content: str, signature: str) -> None:
    key = bytes.fromhex(seed)
    assert hostkey.public_key(key) == public
    assert hostkey.sign(key, bytes.fromhex(content)) == signature


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
@settings(max_examples=30)
def test_it_signs_as_cryptography_does(seed: bytes, content: bytes) -> None:
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert hostkey.public_key(seed) == other.public_key().public_bytes_raw().hex()
    signature = hostkey.sign(seed, content)
    assert signature == other.sign(content).hex()
    other.public_key().verify(bytes.fromhex(signature), content)


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hostkey.sign(b"short", b"")
    assert len(hostkey.make_seed()) == 32
