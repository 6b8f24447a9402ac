"""Benchmarks, examples and tools run rarely: every name that they take from mvad, or from each other, must exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS, TESTS = ROOT / "benchmarks", ROOT / "tests"
SCRIPTS = sorted(
    path.relative_to(ROOT) for folder in ("benchmarks", "examples", "tools") for path in (ROOT / folder).glob("*.py")
)
LOCAL = {path.stem for folder in (BENCHMARKS, TESTS) for path in folder.glob("*.py")}


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let scripts import each other, as when they are run; afterwards other tests find the modules that they had before."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    before = {name: sys.modules[name] for name in LOCAL & sys.modules.keys()}
    yield
    for name in LOCAL & sys.modules.keys():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.parts[0] == "benchmarks"], ids=str)
def test_a_benchmark_can_be_imported(script: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        # dataclasses look their module up there
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(_missing(error))
    finally:
        del sys.modules[spec.name]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_uses_names_that_exist(script: Path) -> None:
    wrong, skipped = unresolved(ast.parse((ROOT / script).read_text(encoding="utf-8")))
    assert not wrong
    if skipped:
        pytest.skip("; ".join(sorted(skipped)))


def test_a_name_that_was_renamed_is_found() -> None:
    code = """
import mvad
from mvad import files
from mvad.model.runs import RunFolder, load_run
def later():
    from mvad.model.old_name import evaluate
    import mvad.model.precision
    import harness
    files.read_json, files.read_toml, harness.run, harness.ran
    mvad.train, mvad.fit, mvad.model.runs.RunFolder
"""
    assert unresolved(ast.parse(code))[0] == [
        "line 4: mvad.model.runs has no load_run", "line 6: no module mvad.model.old_name", "line 7: no module mvad.model.precision",
        "line 9: mvad.files has no read_toml", "line 9: harness has no ran", "line 10: mvad has no fit",
    ]  # fmt: skip


def unresolved(tree: ast.AST) -> tuple[list[str], set[str]]:
    """Return the names from this repository that do not exist, and why some modules could not be imported here.

    Checked are imported modules and names, and the attributes of names that stand for a module anywhere in the file.
    """
    wrong: list[tuple[int, str]] = []
    skipped: set[str] = set()
    modules: dict[str, ModuleType] = {}

    def load(name: str, line: int) -> ModuleType | None:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if _is_ours(str(error.name)):
                wrong.append((line, f"no module {error.name}"))
            else:
                skipped.add(_missing(error))
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            module = load(node.module, node.lineno)
            for alias in node.names if module else ():
                if not _has(module, alias.name):
                    wrong.append((node.lineno, f"{node.module} has no {alias.name}"))
                elif isinstance(found := getattr(module, alias.name), ModuleType):
                    modules[alias.asname or alias.name] = found
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found = load(alias.name, node.lineno) if _is_ours(alias.name) else None
                if found is not None:
                    name = alias.asname or alias.name.partition(".")[0]
                    modules[name] = found if alias.asname else sys.modules[name]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if not _has(module, node.attr):
                wrong.append((node.lineno, f"{module.__name__} has no {node.attr}"))
    return [f"line {line}: {text}" for line, text in sorted(wrong, key=lambda each: each[0])], skipped


def _is_ours(module: str) -> bool:
    root = module.partition(".")[0]
    return root == "mvad" or root in LOCAL


def _has(module: ModuleType | None, name: str) -> bool:
    """Return whether a module has a name or a submodule."""
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__ if module else ''}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def _missing(error: ModuleNotFoundError) -> str:
    return f"needs {error.name}; pip install 'mvad[benchmark]'"
