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
from importlinter.cli import lint_imports

import distsgd

PACKAGE = Path(distsgd.__file__).parent
REPOSITORY = Path(__file__).resolve().parent.parent

HOMES = {
    "ray": ["cluster", "comm.ray_calls"],
    "mlflow": ["tracking"],
    "pandas": ["rundir.result", "rundir.views", "tracking.model", "export.sklearn_pipeline"],
    "cupy": ["core.backend"],
    "pyarrow": ["data"],
    "threadpoolctl": ["core.accumulation", "core.numerics"],
    "annotated_types": ["config"],
    "pydantic": ["config", "rundir.result", "sweeps.store", "tracking.description", "tracking.run_id"],
    "matplotlib": [
        "compare.pictures",
        "rundir.figure",
        "rundir.evaluation_figures",
        "rundir.range_figure",
        "rundir.result",
    ],
    "IPython": ["cli.notebook"],
    "yaml": ["submission.kubernetes"],
    "onnx": ["export.onnx_graph"],
    "onnxruntime": ["export.onnx_file"],
    "safetensors": ["export.safetensors_file"],
    "skops": ["export.sklearn_pipeline"],
    "sklearn": ["export.sklearn_pipeline", "run.metrics", "run.array_metrics", "sklearn"],
    "click": ["cli"],
    "optuna": ["sweeps.search"],
    "rich": ["cli.progress", "cli.bar", "cli.compare", "cli.sweep_progress"],
    "scipy": ["compare.statistics"],
    "sqlalchemy": ["tracking.reading_database"],
    "numpy": [
        "core",
        "data",
        "engine",
        "comm",
        "rundir",
        "cluster",
        "tracking",
        "run.prediction",
        "run.fitting",
        "sklearn",
        "run.evaluation",
        "run.metrics",
        "run.array_metrics",
        "export",
        "compare",
        "verify",
    ],
}
"""The packages or modules in which alone a library may be imported; `lint-imports` guards the package's own imports."""

HEAVY = ["ray", "mlflow", "optuna", "pyarrow", "sklearn", "pandas", "scipy", "matplotlib", "cupy", "torch"]


@cache
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
            assert node.level == 0 or (node.level == 1 and module.startswith("core.")), f"{module} imports relatively"
            home = "distsgd.core." if node.level else ""
            found |= {f"{home}{node.module}.{alias.name}" for alias in node.names}
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


def test_packages_import_only_packages_on_lower_floors(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert lint_imports(no_cache=True) == 0, "run lint-imports, which prints the imports that break a contract"


@pytest.mark.parametrize(
    ("module", "apart"),
    [
        ("engine.serial", {"engine.server", "engine.worker", "engine.aggregation"}),
        ("engine.server", {"engine.worker", "data.loading"}),
        ("engine.worker", {"engine.server"}),
    ],
)
def test_parts_that_are_apart_stay_apart(module, apart):
    assert apart <= set(modules())
    assert not reachable(module) & apart


PURE = ["backprop", "losses", "net", "optim", "predictor", "reduction", "sampling", "schedules", "update_rules"]


@pytest.mark.parametrize("module", [f"core.{name}" for name in PURE])
def test_pure_functions_know_nothing_of_the_machine(module):
    standard = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "types", "typing"}
    assert {name.split(".")[0] for name in imported(module)} - {"distsgd"} <= standard | {"numpy"}


def home_of(module: str, library: str) -> str | None:
    """Return the entry of HOMES that lets a module import a library."""
    return next((home for home in HOMES.get(library, ()) if f"{module}.".startswith(f"{home}.")), None)


def test_libraries_are_imported_where_they_belong_and_no_permission_is_unused():
    used = set()
    for module in modules():
        for name in {name.split(".")[0] for name in imported(module)} - set(sys.stdlib_module_names) - {"distsgd"}:
            home = home_of(module, name)
            assert home is not None, f"{module} imports {name}"
            used.add((name, home))
        assert "pickle" not in imported(module)
    assert used == {(name, home) for name, homes in HOMES.items() for home in homes}


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


def test_ray_is_started_or_joined_in_one_place_each_and_actors_by_the_trainer_and_the_worker_group():
    assert uses("init") == {"cluster.local_ray", "cluster.joining"}
    kinds = {"ServerActor", "WorkerActor", "AggregatorActor"}
    actors = {
        module
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and any(isinstance(value, ast.Name) and value.id in kinds for value in node.args)
    }
    assert actors == {"cluster.trainer", "cluster.worker_group", "cluster.connections"}
    others = {"cluster.prediction", "cluster.resources", "cluster.rpc", "cluster.sharing", "cluster.trial_pool"}
    assert uses("remote") == {"cluster.launching", *others}


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
    names = [
        "Classifier",
        "Config",
        "DistsgdError",
        "Result",
        "SweepResult",
        "__version__",
        "session",
        "sweep",
        "train",
    ]
    assert distsgd.__all__ == names
    for name in set(distsgd.__all__) - {"__version__"}:
        assert getattr(distsgd, name).__module__.startswith("distsgd.")
        assert getattr(distsgd, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        _ = distsgd.optimise
