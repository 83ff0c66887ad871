"""A sealed file tells every change of itself."""

import pytest

from data.sealed_json import BrokenSeal, seal, unseal

CONTENT = {"format": 2, "tokens_seen": 1_048_576, "names": ["a", "\u00e9"], "rates": {"x": 0.1}}


def test_what_was_sealed_comes_back() -> None:
    assert unseal(seal(CONTENT)) == CONTENT


def test_every_flipped_bit_and_every_truncation_is_found() -> None:
    sealed = seal(CONTENT)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :]
            with pytest.raises(BrokenSeal):
                unseal(changed)
        with pytest.raises(BrokenSeal):
            unseal(sealed[:at])
    with pytest.raises(BrokenSeal):
        unseal(sealed + b" ")


def test_a_changed_digit_says_both_checksums() -> None:
    sealed = seal(CONTENT)
    recorded = sealed[14:78].decode()
    with pytest.raises(BrokenSeal, match=rf"expected sha256 '{recorded}', found [0-9a-f]{{64}}$"):
        unseal(sealed.replace(b"1048576", b"1048577"))


def test_other_json_was_never_sealed() -> None:
    with pytest.raises(BrokenSeal, match="does not begin with its sha256"):
        unseal(b'{"format": 1}')
