"""Imports point one way, heavy libraries have one home each, and what is public stays what it is."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import distsgd

PACKAGE = Path(distsgd.__file__).parent

LAYERS = {
    "words": ["errors", "config"],
    "the machine": ["signals", "scratch", "faults", "timing", "backend", "numerics"],
    "pure functions": ["model", "optim", "reduction", "sampling", "state"],
    "links": [
        *("links.memory", "links.doorbell", "links", "links.crew"),
        *("links.shared_memory", "links.lobby", "links.ray_calls"),
    ],
    "data": [
        *("data.normalization", "data.dataset", "data.batches", "data.files", "data.readers", "data.columns"),
        *("data.csvfile", "data.npzfile", "data.labels", "data.sources", "data.filling", "data.loading", "data"),
    ],
    "what is kept": ["checkpoint", "journal", "rundir", "classifier", "result"],
    "the work": [
        *("batch", "setup", "validation", "diagnosis", "serial", "local"),
        *("aggregation", "server", "relay", "accumulation", "worker"),
    ],
    "tracking": [
        *("tracking_uri", "tracking_figure", "tracking_about", "distsgd_pyfunc", "tracking_model"),
        *("tracking_store", "tracking", "tracking_sync"),
    ],
    "the run": ["session", "joining", "cluster", "actors", "calls", "staff", "trainer", "run"],
    "the command line": ["display", "cli"],
}
"""Every module, from the bottom to the top: it may import what stands before it, and nothing else."""

HOMES = {
    "ray": ["actors", "calls", "cluster", "joining", "links.ray_calls", "staff", "trainer"],
    "mlflow": ["tracking", "tracking_model", "tracking_store", "tracking_uri"],
    "pandas": ["tracking_model"],
    "matplotlib": ["tracking_figure"],
    "cupy": ["backend"],
    "pyarrow": [m for m in LAYERS["data"] if m != "data"],
    "sklearn": ["data.readers"],
    "threadpoolctl": ["accumulation", "numerics"],
    "pydantic": ["config"],
    "click": ["cli", "display"],
    "rich": ["display"],
    "numpy": None,
    "torch": [],
    "scipy": [],
    "pickle": [],
}
"""Where alone a library may be imported; None is anywhere."""

HEAVY = ["ray", "mlflow", "pyarrow", "sklearn", "pandas", "scipy", "matplotlib", "cupy", "torch"]


def modules() -> dict[str, Path]:
    names = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if name != "__init__"}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def imported(module: str) -> set[str]:
    """Return the full names that a module imports, within functions too."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(module: str) -> set[str]:
    """Return the package's modules that a module imports."""
    known, found = modules(), set()
    for name in imported(module):
        if name.startswith("distsgd."):
            parts = name.split(".")[1:]
            prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
            found |= set(itertools.islice((prefix for prefix in prefixes if prefix in known), 1))
    return found - {module}


def reachable(module: str) -> set[str]:
    """Return the package's modules that come with a module."""
    seen, left = set(), [module]
    while left:
        found = own_imports(left.pop()) - seen
        seen |= found
        left += found
    return seen


ORDER = [module for layer in LAYERS.values() for module in layer]


def test_every_module_has_one_place_among_the_layers():
    assert sorted(ORDER) == sorted(modules())


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_downwards(module):
    below = set(ORDER[: ORDER.index(module)])
    assert own_imports(module) <= below, f"{module} imports upwards"


@pytest.mark.parametrize(
    ("module", "apart"),
    [
        ("serial", {"server", "worker", "aggregation", "relay", "actors"}),
        ("server", {"worker", "relay", "data", "trainer"}),
        ("worker", {"server", "relay", "links", "trainer"}),
        ("links.crew", {"model", "optim", "data", "server", "worker"}),
        ("data", {"links", "model", "server", "worker"}),
        ("session", {"actors", "staff", "trainer", "cluster"}),
    ],
)
def test_parts_that_are_apart_stay_apart(module, apart):
    assert apart <= set(ORDER)
    assert not reachable(module) & apart


@pytest.mark.parametrize("module", ["model", "optim", "reduction", "sampling"])
def test_the_pure_functions_know_nothing_of_machines(module):
    allowed = {"errors", "config", "model", "optim", "reduction", "sampling"}
    assert reachable(module) <= allowed
    outside = {name.split(".")[0] for name in imported(module)} - {"distsgd"}
    standard = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "types", "typing"}
    assert outside <= standard | {"numpy"}


@pytest.mark.parametrize("module", ["server", "worker", "relay", "serial", "local", "session", "links.shared_memory"])
def test_the_plain_classes_run_without_ray(module):
    assert not (reachable(module) | {module}) & set(HOMES["ray"])


@pytest.mark.parametrize("module", sorted(modules()))
def test_libraries_are_imported_where_they_belong(module):
    for name in {name.split(".")[0] for name in imported(module)} - set(sys.stdlib_module_names) - {"distsgd"}:
        assert name in HOMES, f"{module} imports {name}, which nothing else does"
        assert HOMES[name] is None or module in HOMES[name], f"{module} imports {name}"
    assert "pickle" not in imported(module)


def uses(attribute: str) -> set[str]:
    """Return the modules in whose code an attribute of `ray` is named."""
    return {
        module
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute)
        and node.attr == attribute
        and isinstance(node.value, ast.Name)
        and node.value.id == "ray"
    }


def test_ray_is_started_or_joined_in_one_place_each_and_actors_by_the_trainer_and_its_staff():
    assert uses("init") == {"cluster", "joining"}
    actors = {
        module
        for module in uses("remote")
        for name in ("ServerActor", "WorkerActor", "RelayActor")
        if any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree(module)))
    }
    assert actors == {"trainer", "staff"}


def loaded_by(code: str, *, cwd: Path) -> set[str]:
    """Return the top-level modules that are loaded in a new process after some code."""
    report = "\nimport sys\nprint('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=100, check=True, cwd=cwd
    )
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import distsgd",
        "import distsgd.cli",
        "from distsgd.cli import main; main(['--help'], standalone_mode=False)",
        "from distsgd.cli import main; main(['train', '--help'], standalone_mode=False)",
        "from distsgd.cli import main; main(['--version'], standalone_mode=False)",
    ],
)
def test_help_is_there_at_once_because_nothing_heavy_is_loaded(code, tmp_path):
    assert not loaded_by(code, cwd=tmp_path) & {*HEAVY, "numpy", "pydantic", "rich"}


@pytest.mark.timeout(110)
def test_the_serial_loop_needs_neither_ray_nor_mlflow(tmp_path):
    columns = {"a": np.arange(40.0), "b": np.arange(40) % 7, "label": np.arange(40) % 2}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    code = """
import distsgd
values = {"data.train": "rows.parquet", "run.workers": 0, "tracking.enabled": False, "train.max_steps": 3}
result = distsgd.train(values)
assert result.status == "FINISHED"
result.model.predict([[0.0, 1.0]])
"""
    assert not loaded_by(code, cwd=tmp_path) & {"ray", "mlflow", "sklearn", "matplotlib", "torch"}


def test_what_is_public():
    assert distsgd.__all__ == ["Classifier", "Config", "DistsgdError", "Result", "train"]
    for name in distsgd.__all__:
        assert getattr(distsgd, name).__module__.startswith("distsgd.")
        assert getattr(distsgd, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        _ = distsgd.optimise
