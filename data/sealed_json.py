"""JSON files that know whether they are whole: the first key is a SHA-256 over every byte of the file.

    {
     "sha256": "9c56...",        taken with 64 zeros in this place
     "format": 2,
     ...

The seal finds damage; it does not prove who wrote the file.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_HEAD = b'{\n "sha256": "'
_BLANK = b"0" * 64
_BODY = slice(len(_HEAD), len(_HEAD) + len(_BLANK))


class BrokenSeal(ValueError):
    """A file is not what was sealed."""


def seal(content: Mapping[str, Any]) -> bytes:
    """The bytes of a sealed file that holds `content`, which has no "sha256" of its own."""
    assert "sha256" not in content
    blank = json.dumps({"sha256": _BLANK.decode(), **content}, indent=1).encode() + b"\n"
    return blank.replace(_BLANK, _digest(blank), 1)


def unseal(raw: bytes) -> dict[str, Any]:
    """What was sealed in the file of these bytes.

    Raises:
        BrokenSeal: a byte has changed, the file is cut off, or it was never sealed.
    """
    found = _digest(raw[: _BODY.start] + _BLANK + raw[_BODY.stop :])
    if not raw.startswith(_HEAD) or raw[_BODY] != found:
        raise BrokenSeal(
            f"expected sha256 {raw[_BODY].decode('ascii', 'backslashreplace')!a}, found {found.decode()}"
            if raw.startswith(_HEAD)
            else "it does not begin with its sha256"
        )
    content: dict[str, Any] = json.loads(raw)
    del content["sha256"]
    return content


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).hexdigest().encode()
