"""Inside a package imports go down only: its folders and files stand on floors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each package from the ground up, a floor a line. A name is a file or a folder; the longest name that
# fits a file is its own. A file may import from lower floors and from its own name, and nothing else of its package.
FLOORS = {
    "model": """
        documents norm products peak_flops measured_steps
        packed_layout reach
        position/scales
        position
        position/advice
        layer_pattern
        overrides
        config
        parameters at_step layer_sums
        kind_at_step
        logits long_ce
        predictions
        initialization flops attention loss
        feed_forward
        block recompute
        transformer
        regions huggingface
    """,
    "data": """
        printable files progress interrupt
        command_line
        formats tokens/prefix
        packing/document_order packing/document_rules labels
        generated/documents
        prompts
        generated
        config packing/spans
        tokenizer packing tokens
        batch prepare manifest generated/source held_out_rows
        embedded_corpus held_out loader ngram
        text_encoder
        sources
    """,
    "parallel": """
        launcher topology timeouts
        watch config
        rendezvous transfer regions engine/groups
        mesh engine/training
        collectives links sequence
        tensor
        parameters pipeline
        parallelize engine
        checkpoint costs
    """,
    "train": """
        configuration/prompt_settings
        configuration/long_context_settings
        configuration/evaluation_settings
        health/checkout health/exit_status configuration/schema configuration/nearest configuration/other_names
        configuration/of_the_model
        records/evaluation_rows
        configuration/renamed_keys configuration/wording
        configuration/typed
        configuration/keys configuration/library_errors configuration/yaml_file
        configuration/paths
        configuration/groups configuration/plain_values configuration/changes
        configuration/composition configuration/origins configuration/arguments configuration/flags
        configuration/typed_model schedule
        checkpointing/model_differences checkpointing/folder huggingface/kept_files
        checkpointing/state
        checkpointing/locate
        checkpointing/continuation
        configuration huggingface/config huggingface/folder
        records checkpointing objective
        predictor
        health/run_lock health/stop_signal health/stragglers health/supervisor health/determinism report trainer
        huggingface evaluation step advise compare
        health import_huggingface export_huggingface
        run
        evaluating
        loop build_trainer
        build
        rollback preflight
        job
        start evaluate
        __main__
    """,
}
NUMBERED = {
    package: {
        name: number for number, floor in enumerate(text.split("\n")) for name in floor.split()
    }
    for package, text in FLOORS.items()
}
FILES = sorted(
    path.relative_to(ROOT)
    for package in FLOORS
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


def place(file: Path) -> str:
    """The name in FLOORS that holds a file."""
    parts = file.with_suffix("").parts[1:]
    names = ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
    return next((name for name in names if name in NUMBERED[file.parts[0]]), "")


def imported(file: Path) -> list[Path]:
    """The files of the same package that a file imports."""
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith(file.parts[0])
        ):
            for name in node.names:
                for module in (f"{node.module}.{name.name}", node.module):
                    path = Path(f"{module.replace('.', '/')}.py")
                    if path in FILES:
                        found.append(path)
                        break
    return found


def problems(file: Path) -> list[str]:
    """Every import of a file that goes up, or along a floor into another folder."""
    own = place(file)
    floors = NUMBERED[file.parts[0]]
    return [
        f"{file} (floor of {own}) imports {other} (floor of {place(other)})"
        for other in imported(file)
        if place(other) != own and floors[place(other)] >= floors[own]
    ]


@pytest.mark.parametrize("package", FLOORS)
def test_every_file_has_a_floor_and_every_name_a_file(package: str) -> None:
    places = {file: place(file) for file in FILES if file.parts[0] == package}
    without = [str(file) for file, name in places.items() if not name]
    assert not without, f"give {', '.join(without)} a place in FLOORS"
    unused = set(NUMBERED[package]) - set(places.values())
    assert not unused, f"FLOORS names {', '.join(sorted(unused))}, which hold no file of their own"


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down(package: str) -> None:
    found = [line for file in FILES if file.parts[0] == package for line in problems(file)]
    assert not found, "\n".join(found)


def test_an_import_that_goes_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = Path("train/configuration/schema.py"), Path("train/loop.py")
    monkeypatch.setitem(globals(), "imported", lambda file: [high if file == low else low])
    assert problems(low)
    assert not problems(high)
