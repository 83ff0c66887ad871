"""Reads the files beside a tokenizer: `tokenizer_config.json`, and `config.json` of its model."""

import json
from pathlib import Path
from typing import Any

TOKENIZER_CONFIG = "tokenizer_config.json"
MODEL_CONFIG = "config.json"


def read_beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file `name` beside `path`; {} if there is no such file.

    Raises:
        ValueError: the file cannot be read or is not a JSON object.
    """
    beside = path.with_name(name)
    try:
        content = json.loads(beside.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"tokenizer={path}: {beside} cannot be read ({error}); correct it, or remove it"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"tokenizer={path}: {beside} is no JSON object; correct it, or remove it")
    return content


def token_name(path: Path, key: str) -> str | None:
    """The token that tokenizer_config.json beside `path` names under `key`, as "bos_token"; None for none.

    Raises:
        ValueError: the value is not a token.
    """
    named = read_beside(path, TOKENIZER_CONFIG).get(key)
    if isinstance(named, dict):
        named = named.get("content")
    if named is not None and not isinstance(named, str):
        raise ValueError(
            f"tokenizer={path}: {TOKENIZER_CONFIG} has {key}={json.dumps(named)}; name a token"
        )
    return named


def adds_bos(path: Path) -> bool | None:
    """`add_bos_token` of tokenizer_config.json beside `path`; None if it is not set.

    Raises:
        ValueError: the value is neither true nor false.
    """
    said = read_beside(path, TOKENIZER_CONFIG).get("add_bos_token")
    if said is not None and not isinstance(said, bool):
        raise ValueError(
            f"tokenizer={path}: {TOKENIZER_CONFIG} has add_bos_token={json.dumps(said)}; it must"
            " be true or false"
        )
    return said
