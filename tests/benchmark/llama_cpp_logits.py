"""Exported models in llama.cpp: for every family and variant, whether its logits are ours.

    pip install -e '.[readers]'                           llama-cpp-python, gguf
    LLAMA_CPP=FOLDER make benchmark ARGS=llama_cpp_logits

FOLDER has convert_hf_to_gguf.py: a checkout of llama.cpp, or `vendor/llama.cpp` in the sources of llama-cpp-python. A
small model of each case is imported, exported, converted in float32, and given four texts that end before, at and
after the window. The converter knows tokenizers of the byte-level kind by a hash of what they give; it is told
`default` where it does not know this one, since only ids are compared.

Prints the table and writes `outputs/benchmarks/llama_cpp_logits.json`.
"""

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data.tokenizer.sentencepiece_model import train
from model.huggingface.readers import LLAMA_CPP
from tests.unit.huggingface_folders import written_model
from tests.unit.reader_cases import PLAIN, READER_CASES, VOCABULARY, said
from tests.unit.test_huggingface_families import our_logits, our_model
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

OUTPUT = Path("outputs/benchmarks/llama_cpp_logits.json")
LENGTHS = (7, 8, 9, 29)
# float32 in another order; gelu is a table of float16 there. What is read otherwise is off by more than DIFFERS.
EQUAL, EQUAL_WITH_GELU, DIFFERS = 1e-4, 0.05, 0.1


def convert(source: str, folder: str, output: str) -> None:
    """The converter, with an answer to tokenizers that it does not know. In a process of its own."""
    sys.path[:0] = [source, f"{source}/gguf-py"]
    import conversion.base

    asked = conversion.base.TextModel.get_vocab_base_pre

    def named(self: Any, tokenizer: Any) -> str:
        try:
            return str(asked(self, tokenizer))
        except NotImplementedError:
            return "default"

    conversion.base.TextModel.get_vocab_base_pre = named
    sys.argv = ["convert", folder, "--outfile", output, "--outtype", "f32"]
    runpy.run_path(f"{source}/convert_hf_to_gguf.py", run_name="__main__")


def evaluate(file: str, output: str) -> None:
    """Logits of llama.cpp for the texts, into a file. In a process of its own: a failed assertion ends it."""
    import llama_cpp
    import numpy as np

    model = llama_cpp.llama_model_load_from_file(
        file.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        sys.exit(1)
    found = []
    for text in texts():
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.flash_attn_type = 64, 1, 0
        settings.type_k = settings.type_v = 0  # float32
        context = llama_cpp.llama_init_from_model(model, settings)
        batch = llama_cpp.llama_batch_init(len(text), 0, 1)
        batch.n_tokens = len(text)
        for place, token in enumerate(text.tolist()):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        if llama_cpp.llama_decode(context, batch):
            sys.exit(1)
        rows = [llama_cpp.llama_get_logits_ith(context, place) for place in range(len(text))]
        arrays = [np.ctypeslib.as_array(row, shape=(VOCABULARY,)).copy() for row in rows]
        found.append(torch.from_numpy(np.stack(arrays)))
        llama_cpp.llama_free(context)
    torch.save(found, output)


def texts() -> list[torch.Tensor]:
    """Ids of four texts."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def outcome(case: str, folder: Path, tokenizer: Path, source: str) -> dict[str, Any]:
    """What becomes of one case: equal, differs, not converted or not loaded, and by how much logits differ."""
    kind, settings = READER_CASES[case]
    written_model(folder / "theirs", kind, **{**PLAIN, **settings})
    import_model(folder / "theirs", folder / "ours")
    export_model(folder / "ours", folder / "out", ExportOptions(kind, tokenizer=str(tokenizer)))
    says = said(case, LLAMA_CPP)
    for step, arguments in (
        ("not converted", ("convert", source, folder / "out", folder / "model.gguf")),
        ("not loaded", ("evaluate", folder / "model.gguf", folder / "logits.pt")),
    ):
        command = [sys.executable, __file__, *map(str, arguments)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return {"case": case, "outcome": step, "difference": None, "says": says}
    theirs = torch.load(folder / "logits.pt")
    ours = our_logits(*our_model(folder / "ours"), texts())
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    limit = EQUAL_WITH_GELU if kind == "gemma3_text" else EQUAL
    if limit <= difference < DIFFERS:
        raise SystemExit(f"{case}: logits differ by {difference}: neither equal nor another model")
    word = "equal" if difference < limit else "differs"
    return {"case": case, "outcome": word, "difference": difference, "says": says}


def table(numbers: dict[str, Any]) -> str:
    """A row a case: what llama.cpp made of it, the largest difference of a logit, and what the export says of it."""
    versions = ", ".join(f"{name} {found}" for name, found in numbers["versions"].items())
    rows = [f"{versions}; float32; logits of a size of 1 to 3", ""]
    for row in numbers["rows"]:
        difference = "" if row["difference"] is None else f"{row['difference']:.0e}"
        line = f"{row['case']:36} {row['outcome']:14} {difference:>6}  {'; '.join(row['says'])}"
        rows.append(line.rstrip())
    return "\n".join(rows) + "\n"


def main() -> None:
    """All cases, one after the other."""
    source = os.environ.get("LLAMA_CPP", "")
    if not (Path(source) / "convert_hf_to_gguf.py").is_file():
        sys.exit("set LLAMA_CPP to a folder with convert_hf_to_gguf.py: a checkout of llama.cpp")
    sentences = [f"one two three {i * i:x} def f{i}(x):\n    return x\n" for i in range(200)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        made = train(sentences, Path(scratch) / "tokens.model", VOCABULARY)
        for case in READER_CASES:
            folder = Path(scratch) / re.sub(r"\W+", "_", case)
            rows.append(outcome(case, folder, made.path, source))
            sys.stderr.write(f"  {case}: {rows[-1]['outcome']}\n")
    names = ("llama-cpp-python", "gguf")
    numbers = {"versions": {name: version(name) for name in names}, "rows": rows}
    sys.stdout.write(table(numbers))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        {"convert": convert, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
