"""A file that is replaced has its old content or the new one; a sealed file tells every change of itself."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data.files import BrokenSeal, leftovers, replacing, seal, unseal, write_durably

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


STEPS = ["open", "write", "fsync", "replace", "open", "fsync"]


class Killed(BaseException):
    """Stands for the end of the process: no line of it runs any more."""


@contextmanager
def at_call(number: int, error: Callable[[], BaseException]) -> Iterator[list[str]]:
    """The `number`th call that changes the file system raises, and after a kill every later one."""
    calls: list[str] = []
    dead: list[BaseException] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in (*set(STEPS), "unlink"):
            original = getattr(os, name)

            def call(*given: Any, original: Any = original, name: str = name, **named: Any) -> Any:
                if dead:
                    raise dead[0]
                calls.append(name)
                if len(calls) == number + 1:
                    raised = error()
                    if isinstance(raised, Killed):
                        dead.append(raised)
                    raise raised
                return original(*given, **named)

            patch.setattr(os, name, call)
        yield calls


@pytest.mark.parametrize("old", [None, b"old content"])
@pytest.mark.parametrize("error", [Killed, lambda: OSError(errno.ENOSPC, "no space left")])
def test_at_every_step_a_name_has_its_old_content_or_the_new_one(
    tmp_path: Path, old: bytes | None, error: Callable[[], BaseException]
) -> None:
    new = b"new content" * 1000
    for number in range(8):
        path = tmp_path / f"{number}" / "name"
        path.parent.mkdir()
        if old is not None:
            path.write_bytes(old)
        with at_call(number, error) as calls:
            try:
                write_durably(path, new)
                done = True
            except (Killed, OSError):
                done = False
        found = path.read_bytes() if path.exists() else None
        assert found == (new if number > STEPS.index("replace") else old)
        if error is not Killed:
            assert not leftovers(path)  # a full disk gets its room back
        else:
            assert all(left.name.startswith(".") for left in leftovers(path))  # no input, no result
        if done:
            break
    else:
        pytest.fail("there were more steps than expected")
    # What a loss of power needs: contents before the name, the name before success is told.
    assert calls == STEPS


def test_a_streamed_file_takes_its_name_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        assert 1 // 0
    assert path.read_bytes() == b"old"
    assert not leftovers(path)
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert len(leftovers(path)) == 1
    assert path.read_bytes() == b"new"


def test_two_processes_that_write_one_name_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "name"
    with replacing(path) as first:
        first.write(b"first")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        write_durably(path, "second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
