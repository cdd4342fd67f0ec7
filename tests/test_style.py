"""What a reader meets: widths, one statement a line, one-way imports, no other packages."""
import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

from tests.helpers import HOME

FILES = sorted(path.relative_to(HOME) for path in HOME.rglob("*.py")
               if not any(part.startswith(".") or part in ("out", "venv")
                          for part in path.relative_to(HOME).parts))
TEXTBOOK = ("model", "heads", "autoencoders")
PACKAGES = {"torch", "numpy", "einops", "tqdm", "soundfile", "imageio", "imageio_ffmpeg"}


def module_name(path: Path) -> str:
    return path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse((HOME / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_lines_are_narrow_and_hold_one_statement(path):
    text = (HOME / path).read_text(encoding="utf-8")
    wide = [number for number, line in enumerate(text.splitlines(), 1) if len(line) > 100]
    assert not wide, f"{path}: lines {wide} are wider than 100 columns"
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    joined = [token.start[0] for token in tokens if token.type == tokenize.OP
              and token.string == ";"]
    assert not joined, f"{path}: lines {joined} hold several statements"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_rooms_say_what_they_are(path):
    assert ast.get_docstring(ast.parse((HOME / path).read_text(encoding="utf-8"))), path


def test_imports_run_one_way():
    graph = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    done = set()

    def visit(name, above):
        assert name not in above, f"a circle of imports: {' -> '.join([*above, name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_textbook_files_import_torch_einops_and_each_other(name):
    others = {module.split(".")[0] for module in imported(MODULES[name])} - {*TEXTBOOK}
    assert others - sys.stdlib_module_names <= {"torch", "einops"}


def test_other_packages_are_lazy_imports_behind_an_option():
    """At the top of a file, outside of lab/ and tests/, stands no package but those in
    requirements.txt."""
    for name, path in MODULES.items():
        if name.split(".")[0] in ("lab", "tests", "test_shapes"):
            continue
        tree = ast.parse((HOME / path).read_text(encoding="utf-8"))
        found = set()
        for node in tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
        ours = {module.split(".")[0] for module in MODULES}
        assert found - ours - sys.stdlib_module_names <= PACKAGES, path
