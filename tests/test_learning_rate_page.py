"""The page about learning rates and mini-batch sizes shows what its runs give."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("learning_rate", DOCS / "learning_rate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def shown(script, name: str) -> list[list[str]]:
    """Return the rows of a picture's table on the page."""
    text = (DOCS / "learning-rate.md").read_text(encoding="utf-8")
    table = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0].strip()
    assert table.startswith(script.HEADER.strip())
    return [cells(line) for line in table.splitlines()[2:]]


def test_the_page_has_a_row_for_each_run_and_each_picture(script):
    for name, runs in script.EXPERIMENTS.items():
        assert [row[0] for row in shown(script, name)] == list(runs)
        assert (DOCS / f"{name}.png").stat().st_size > 10_000
    text = (DOCS / "learning-rate.md").read_text(encoding="utf-8")
    tables = {name: f"{script.HEADER}{name}" for name in script.EXPERIMENTS}
    for name, table in tables.items():
        assert table in script.replaced(text, name, table)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        pytest.param("learning-rate", "α = 5", marks=pytest.mark.slow),
        ("mini-batch-size", "batch of 1024"),
        pytest.param("learning-rate", "α = 0.5", marks=pytest.mark.slow),
        pytest.param("mini-batch-size-and-learning-rate", "batch of 256, α = 0.4", marks=pytest.mark.slow),
    ],
)
def test_a_run_gives_the_numbers_of_its_row(script, tmp_path, name, run):
    result, journal = script.trained(script.EXPERIMENTS[name][run], tmp_path / "run")
    found = cells(script.row(run, result, journal))
    (expected,) = (row for row in shown(script, name) if row[0] == run)
    assert len(found) == len(expected)
    if result is None:
        assert found[2:] == expected[2:]  # the step depends on the processor
        return
    assert found[:2] == expected[:2]
    numbers = [[float(cell) for cell in row[2:]] for row in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
