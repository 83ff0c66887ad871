"""Which folder may import what, one heavy package a file, and files short enough to read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "model": {"model"},
    "data": {"data"},
    "parallel": {"parallel", "model"},
    "train": {"train", "model", "data", "parallel"},
}
# Heavy or foreign package -> the only files (or folders) that may import it.
HOMES = {
    "flash_attn": {"model/attention/flash.py"},
    "safetensors": {"parallel/checkpoint/tensor_files.py"},
    "sentencepiece": {"data/tokenizer/sentencepiece_model.py"},
    "tokenizers": {"data/tokenizer/tokenizer_json.py"},
    "deepspeed": {"parallel/engine/deepspeed_import.py"},
    "torch.distributed": {"parallel/"},
    "hydra": {"train/configuration/"},
    "omegaconf": {"train/configuration/"},
    "yaml": {"train/configuration/yaml_file.py", "train/report/"},
    "wandb": {"train/records/wandb_log.py"},
    "pydantic": {"train/configuration/typed.py"},
    "zstandard": {"data/formats/streams.py"},
}
# What `python -m train` must not import before it starts a run: they are nine tenths of the seconds of a start.
HEAVY = (
    "torch", "deepspeed", "transformers", "safetensors", "sentencepiece", "tokenizers", "wandb"
)  # fmt: skip
# The only imports of our packages inside a function, each where a run begins.
INSIDE_A_FUNCTION = {("train/__main__.py", "train.start.start")}
# What can run code that stands in a file, and the only files that may use it.
RUNS_CODE = {
    # Between data.prepare and its own worker processes, over their pipes.
    "pickle": {"data/prepare/worker_pool.py", "data/prepare/worker.py"},
    # tests/ranks.py, which hands on what forked ranks computed, is no product code.
    "torch.load": set(),
    # Kernels of a package whose name stands in the code.
    "importlib.import_module": {"model/attention/flash.py"},
}
NOBODY = (
    "eval", "exec", "compile", "__import__", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy",
    "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader",
    "yaml.UnsafeLoader", "hydra.utils", "torch.jit", "torch.hub", "torch.package", "numpy.lib",
    "torch.distributed.checkpoint",
)  # fmt: skip
FILES = sorted(
    path.relative_to(ROOT) for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py")
)


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node, name.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield node, f"{node.module}.{name.name}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_imports_only_what_its_folder_may(file: Path) -> None:
    tree = ast.parse((ROOT / file).read_text())
    top_level = {node for node in ast.walk(tree) if isinstance(node, ast.stmt)} & set(tree.body)
    for node, name in imports(tree):
        package = name.split(".")[0]
        if package in MAY_IMPORT:
            assert package in MAY_IMPORT[file.parts[0]], f"{file} imports {name}"
            hidden = node not in top_level and (str(file), name) not in INSIDE_A_FUNCTION
            assert not hidden, f"{file} hides an import of {name} inside a function"
            assert not isinstance(node, ast.Import), f"{file}: write from {name} import ..."
        for heavy, homes in HOMES.items():
            if name == heavy or name.startswith(f"{heavy}."):
                allowed = any(str(file).startswith(home) for home in homes)
                assert allowed, f"{file} imports {name}; only {homes} may"


@pytest.mark.parametrize("package", sorted({file.parent for file in FILES}), ids=str)
def test_a_package_imports_nothing_by_itself(package: Path) -> None:
    """So that a module of integers is imported without the modules beside it."""
    init = ROOT / package / "__init__.py"
    assert init.is_file()
    assert not list(imports(ast.parse(init.read_text()))), f"{package}/__init__.py imports"


def chain_to_a_heavy_package(start: Path) -> str:
    """The first chain of top-level imports from a file of ours to a package of HEAVY; empty: there is none."""
    chains = {start: str(start)}
    waiting = [start]
    while waiting:
        file = waiting.pop(0)
        tree = ast.parse((ROOT / file).read_text())
        for node, name in imports(tree):
            if node not in tree.body:
                continue
            package = name.split(".")[0]
            if package in HEAVY:
                return f"{chains[file]} -> {name}"
            # `from a.b import c`: c is a module, or a name in the module a.b.
            for module in (name, name.rpartition(".")[0]):
                path = Path(f"{module.replace('.', '/')}.py")
                if path in FILES and path not in chains:
                    chains[path] = f"{chains[file]} -> {path}"
                    waiting.append(path)
    return ""


@pytest.mark.parametrize("start", ["train/__main__.py", "train/advise/__main__.py"])
def test_what_check_and_advise_reach_imports_no_heavy_package(start: str) -> None:
    chain = chain_to_a_heavy_package(Path(start))
    assert not chain, (
        f"{chain}: --help, --check and advise must start without it; put what they judge apart"
    )


def test_the_search_for_heavy_packages_follows_imports_from_file_to_file() -> None:
    chain = chain_to_a_heavy_package(Path("train/start.py"))
    assert chain.startswith("train/start.py -> ")
    assert chain.rpartition(" -> ")[2].split(".")[0] in HEAVY


def used(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported or looked up, in full: np.load is numpy.load."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in node.names:
                yield f"{origin}{name.name}"
                aliases[name.asname or name.name] = f"{origin}{name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            yield f"{aliases.get(head, head)}.{rest}".rstrip(".")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_a_file_holds_is_never_run_as_code(file: Path) -> None:
    tree = ast.parse((ROOT / file).read_text())
    for name in used(tree):
        for forbidden, homes in (RUNS_CODE | dict.fromkeys(NOBODY, ())).items():
            if name == forbidden or name.startswith(f"{forbidden}."):
                assert str(file) in homes, f"{file} uses {name}: files are data, read them as data"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if ast.unparse(call.func).endswith("np.load"):
            keywords = {key.arg: ast.unparse(key.value) for key in call.keywords}
            assert keywords.get("allow_pickle") == "False", (
                f"{file}: np.load without allow_pickle=False"
            )


def test_the_search_for_code_finds_every_way_to_write_it() -> None:
    ways = (
        "import pickle as p; p.load(f)",
        "from torch import load as x; x(f)",
        "(lambda: eval(s))()",
    )
    for way, name in zip(ways, ("pickle.load", "torch.load", "eval"), strict=True):
        assert name in set(used(ast.parse(way)))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_is_short_and_says_what_it_is_for(file: Path) -> None:
    text = (ROOT / file).read_text()
    assert text.count("\n") <= 400, f"{file} is too long to read in one go"
    assert ast.get_docstring(ast.parse(text)), f"{file} has no module docstring"


def test_files_of_tests_and_launchers_are_short_too() -> None:
    files = [file for folder in ("tests", "launch") for file in (ROOT / folder).rglob("*.py")]
    long = [str(file) for file in files if file.read_text().count("\n") > 400]
    assert len(files) > 100
    assert not long


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of what a caller gives, without self, cls and autograd's ctx."""
    given = function.args
    names = [given.vararg, *given.posonlyargs, *given.args, *given.kwonlyargs, given.kwarg]
    return [name.arg for name in names if name and name.arg not in ("self", "cls", "ctx")]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_functions_are_short_and_take_few_parameters(file: Path) -> None:
    for function in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{file}:{function.lineno} {function.name}"
            lines = (function.end_lineno or 0) - function.lineno + 1
            assert lines <= 60, f"{where} has {lines} lines"
            names = parameters_of(function)
            assert len(names) <= 7, f"{where} takes {len(names)} parameters: {names}"


def test_names_do_not_shadow_the_standard_library() -> None:
    import sys

    clashes = [
        file for file in FILES if file.stem in sys.stdlib_module_names and "__" not in file.stem
    ]
    assert clashes == []


def test_conf_holds_values_only() -> None:
    assert not list((ROOT / "conf").rglob("*.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))
