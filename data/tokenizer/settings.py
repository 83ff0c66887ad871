"""What the files beside a tokenizer say: `tokenizer_config.json`, and `config.json` of its model."""

import json
from pathlib import Path
from typing import Any

TOKENIZER_CONFIG = "tokenizer_config.json"
MODEL_CONFIG = "config.json"


def read_beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file `name` beside `path`; {} where there is no such file.

    Raises:
        ValueError: the file is there and is none, or cannot be read.
    """
    beside = path.with_name(name)
    try:
        content = json.loads(beside.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"tokenizer={path}: {beside} cannot be read ({error}); mend it, or take it away"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"tokenizer={path}: {beside} is no JSON object; mend it, or take it away")
    return content


def token_name(path: Path, key: str) -> str | None:
    """The token that tokenizer_config.json beside `path` names under `key`, as "bos_token"; None for none.

    Raises:
        ValueError: what stands there is no token.
    """
    named = read_beside(path, TOKENIZER_CONFIG).get(key)
    if isinstance(named, dict):
        named = named.get("content")
    if named is not None and not isinstance(named, str):
        raise ValueError(
            f"tokenizer={path}: {TOKENIZER_CONFIG} says {key}={json.dumps(named)}; name a token"
        )
    return named


def adds_bos(path: Path) -> bool | None:
    """`add_bos_token` of tokenizer_config.json beside `path`; None where it is not said.

    Raises:
        ValueError: it is neither true nor false.
    """
    said = read_beside(path, TOKENIZER_CONFIG).get("add_bos_token")
    if said is not None and not isinstance(said, bool):
        raise ValueError(
            f"tokenizer={path}: {TOKENIZER_CONFIG} says add_bos_token={json.dumps(said)}; it must"
            " be true or false"
        )
    return said
