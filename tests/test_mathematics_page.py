"""docs/mathematics.md: its Python runs, and each formula points at a line of code that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "mathematics.md").read_text(encoding="utf-8")
POINTER = re.compile(r"^→ \[([\w/.]+)\]\(\.\./distsgd/([\w/.]+)\), in `([\w.]+)`: `(.+)`$", re.MULTILINE)
WITHOUT_CODE = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)


def code_of(path: str, name: str) -> list[str]:
    """Return the lines of a function, or of a class's method, without their indentation."""
    source = (REPOSITORY / "distsgd" / path).read_text(encoding="utf-8")
    found: ast.AST = ast.parse(source)
    for part in name.split("."):
        (found,) = (node for node in found.body if getattr(node, "name", None) == part)
    return [line.strip() for line in source.splitlines()[found.lineno - 1 : found.end_lineno]]


def test_every_formula_is_followed_by_a_pointer():
    paragraphs = [part for part in re.split(r"\n{2,}", WITHOUT_CODE) if part.strip()]
    formulas = [i for i, part in enumerate(paragraphs) if part.startswith("    ")]
    assert len(formulas) >= 20
    for i in formulas:
        assert POINTER.fullmatch(paragraphs[i + 1]), paragraphs[i]
    assert len(POINTER.findall(PAGE)) == len(formulas) == PAGE.count("→ [")


@pytest.mark.parametrize(("shown", "path", "name", "code"), POINTER.findall(PAGE))
def test_the_line_of_code_is_there_once(shown, path, name, code):
    assert shown == path
    assert code_of(path, name).count(code) == 1, f"{code!r} is not exactly one line of {name} in {path}"


def test_the_program_of_the_page_runs(own_folder):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 12
    assert all("assert " in block for block in blocks)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/mathematics.md, piece {number + 1}", "exec"), names)
