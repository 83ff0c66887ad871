"""Logits of models as the `transformers` says that comes first on the path: one process for many folders.

    PYTHONPATH=FOLDER python tests/unit/logits_of_models.py < job.json

The job: {"folders": [...], "texts": [[id, ...], ...], "output": FILE, "tokenizer": FOLDER, "strings": [...]}. Logits
go into the safetensors OUTPUT under "folder/text", counted from 0. Standard output is JSON: the versions, why a folder
could not be read, by its number, and the ids of the strings.
"""

import json
import sys
from typing import Any

import torch
from safetensors.torch import save_file


@torch.no_grad()
def main() -> None:
    import tokenizers
    import transformers

    job: dict[str, Any] = json.load(sys.stdin)
    logits: dict[str, torch.Tensor] = {}
    errors: dict[int, str] = {}
    for number, folder in enumerate(job["folders"]):
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
        except Exception as error:  # whatever it raises is the answer
            errors[number] = f"{type(error).__name__}: {error}"
            continue
        for place, text in enumerate(job["texts"]):
            logits[f"{number}/{place}"] = model(torch.tensor([text])).logits[0].contiguous()
    save_file(logits, job["output"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    ids = [tokenizer(string)["input_ids"] for string in job["strings"]]
    versions = {package.__name__: package.__version__ for package in (transformers, tokenizers)}
    print(json.dumps({"versions": versions, "errors": errors, "ids": ids}))  # noqa: T201


if __name__ == "__main__":
    main()
