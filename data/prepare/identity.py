"""Everything that the result of data.prepare depends on, as one digest and as text.

The manifest of finished files and the journal of an unfinished job contain this description. Two jobs with the
same fingerprint make the same files.
"""

import hashlib
import json
from collections.abc import Iterable

from data.formats.input_files import Inputs
from data.formats.obstacles import formats_of
from data.formats.readers import changed_since_first
from data.formats.records import Fields
from data.prepare.options import PrepareOptions
from data.tokenizer.any_tokenizer import TextTokenizer
from data.tokens.manifest import Manifest

# Increased when the same inputs would yield other token files.
TOOL_VERSION = 2
NAMED_INPUTS = 50
FILES = "number of input files"


def describe_job(
    options: PrepareOptions, tokenizer: TextTokenizer, bos_id: int | None, inputs: Inputs
) -> Manifest:
    """The part of a manifest that describes the origin of token files."""
    heldout = {"fraction": options.heldout_fraction, "seed": options.heldout_seed}
    formats = formats_of(inputs)
    return {
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        **({} if bos_id is None else {"bos_id": bos_id}),
        "tokenizer": {"file": tokenizer.path.name, "sha256": tokenizer.sha256},
        "inputs": {
            "paths": list(options.inputs[:NAMED_INPUTS]),
            "files": len(inputs.files),
            "formats": formats,
            **inputs.counts,
            **_named(options.given_fields.fields),
        },
        "heldout": heldout if options.heldout_output else {},
        "readings": readings(formats),
        "tool_version": TOOL_VERSION,
        "fingerprint": _fingerprint(options, tokenizer, bos_id, inputs, readings(formats)),
    }


def _named(fields: Fields) -> dict[str, str]:
    """The fields of the text, under the keys of a manifest."""
    labels = {"unlabelled_field": fields.unlabelled, "segments_field": fields.segments}
    return {"text_field": fields.text, **{key: name for key, name in labels.items() if name}}


def readings(formats: Iterable[str]) -> dict[str, str]:
    """Those of these formats that are read differently since version 1, and the difference."""
    found = {suffix: changed_since_first(suffix) for suffix in formats}
    return {suffix: changed for suffix, changed in found.items() if changed}


def _fingerprint(
    options: PrepareOptions,
    tokenizer: TextTokenizer,
    bos_id: int | None,
    inputs: Inputs,
    read: dict[str, str],
) -> str:
    """SHA-256 over settings, tokenizer, and the name, size and time of every input."""
    heldout = (options.heldout_fraction, options.heldout_seed) if options.heldout_output else ()
    # Without BOS, changed formats and labels the fingerprint is that of earlier versions.
    bos = () if bos_id is None else (bos_id,)
    versions = [2, sorted(read)] if read else []
    digest = hashlib.sha256()
    fields = options.given_fields.fields
    labels = [["labels", fields.unlabelled, fields.segments]] if fields.say_labels else []
    settings = (TOOL_VERSION, tokenizer.sha256, fields.text, heldout, *bos, *versions, *labels)
    digest.update(json.dumps(settings).encode())
    for name, stamp in zip(inputs.files, inputs.stamps, strict=True):
        digest.update(json.dumps((name, *stamp)).encode())
    return digest.hexdigest()


def differences(found: Manifest, wanted: Manifest) -> list[str]:
    """The differences between the job `found` and the job `wanted`, as text."""
    here, there = _facts(wanted), _facts(found)
    different = [
        f"{name} {there[name]}, now {here[name]}" for name in here if here[name] != there[name]
    ]
    known = found.get("readings", {})
    different += [
        f"{suffix} files are read differently since ({changed})"
        for suffix, changed in wanted["readings"].items()
        if known.get(suffix) != changed
    ]
    return different


def _facts(job: Manifest) -> dict[str, str]:
    inputs, heldout = job.get("inputs", {}), job.get("heldout", {})
    tokenizer = job.get("tokenizer", {})
    named = f"{tokenizer.get('file')} ({str(tokenizer.get('sha256'))[:12]})"
    return {
        "tokenizer": named,
        "inputs": ", ".join(inputs.get("paths", [])) or "none",
        FILES: str(inputs.get("files")),
        "text field": repr(inputs.get("text_field")),
        "unlabelled field": repr(inputs.get("unlabelled_field", "")),
        "field of segments": repr(inputs.get("segments_field", "")),
        "BOS token": str(job.get("bos_id", "none")),
        "held-out part": f"{heldout['fraction']} with seed {heldout['seed']}"
        if heldout
        else "none",
        "version of data.prepare": str(job.get("tool_version")),
    }
