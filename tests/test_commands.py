"""The commands of README and docs, read from there: distsgd's are run, the others are what their programs take."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import invoke

from distsgd.cli import main
from distsgd.cli.options import SWEEP_OPTIONS
from distsgd.config import Config, parse_assignments, read_toml
from distsgd.sweeps.options import SearchOptions

REPOSITORY = Path(__file__).resolve().parent.parent
IN_ORDER = ("tutorial.md", "recipes.md")
"""Pages whose commands build on each other; tests/test_walkthroughs.py runs them."""

PAGES = [REPOSITORY / "README.md", *(p for p in sorted((REPOSITORY / "docs").glob("*.md")) if p.name not in IN_ORDER)]

ELSEWHERE = {
    "pytest": ".ci/run",
    "ruff": ".ci/run",
    "mypy": ".ci/run",
    "lint-imports": ".ci/run",
    "mkdocs": ".ci/run",
    "pip": ".ci/run; the extras are in pyproject.toml",
    ".": ".ci/run",
    "python3": ".ci/run",
    ".ci/run": "itself",
    "docker": "tests/test_compose.py; it needs Docker",
    "sh": "tests/test_compose.py",
    "export": "tests/cluster/test_jobs.py",
    **dict.fromkeys(("mkdir", "(umask", "ray", "echo", "until", "kill"), "tests/submission/test_own_cluster.py"),
}
"""What is run elsewhere, by the first word of a command, and where."""

USE = ("predict", "evaluate", "export", "compare", "verify")
"""Commands that need a run."""

QUICK = ["--workers", "0", "--set", "train.max_steps=3", "--set", "tracking.enabled=false"]

QUICK_OPTIONS = {"train": QUICK, "find-lr": [*QUICK[:2], *QUICK[4:]]}

PROGRAMS = {"distsgd", "ray", "python", *ELSEWHERE}


def commands(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks and of its indented lines that begin with a program."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", without_blocks, re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in indented if line.split()[0] in PROGRAMS]
    words = [re.split(r"\s#\s|\s{3,}#", line)[0] for line in lines if line]
    return [command.strip() for line in words for command in line.split("&&")]


ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
OURS = [command for command in ALL if command.startswith("distsgd ")]
JOBS = [command for command in ALL if command.startswith("ray job submit ")]
MODULES = [command for command in ALL if command.startswith("python -m ")]


def config_of(arguments: list[str]) -> Config:
    """Return the configuration that the arguments of `distsgd train` ask for."""
    given = main.commands["train"].make_context("train", list(arguments)).params
    layers = [read_toml(REPOSITORY / given["config"]) if given["config"] else {}]
    return Config.build(*layers, parse_assignments(given["assignments"]))


def write_rows(name: str, features: int) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(80) % 10
    pixels = rng.integers(0, 256, (80, features)).astype(np.uint8)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), features)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": columns, "label": labels}), name)


@pytest.fixture
def checkout(own_folder: Path) -> Path:
    """A folder with jobs/ and the rows that the commands name."""
    shutil.copytree(REPOSITORY / "jobs", "jobs")
    for folder in ("", "mnist/", "data/mnist/"):
        for name in ("train", "test"):
            write_rows(f"{folder}{name}.parquet", 784)
    rows = pq.read_table("test.parquet")
    pq.write_table(rows.append_column("id", pa.array(range(len(rows)))), "new.parquet")
    return own_folder


def test_the_commands_are_found():
    assert len(OURS) >= 6
    assert len(JOBS) == 2
    assert "distsgd train" in OURS
    assert "python -m benchmarks.compare" in MODULES


def test_every_command_is_one_that_a_test_knows():
    unknown = [command for command in ALL if command not in {*OURS, *JOBS, *MODULES}]
    assert {shlex.split(command)[0] for command in unknown} <= set(ELSEWHERE)


@pytest.mark.parametrize(
    "command",
    [c for c in OURS if not any(w in c for w in ("sync", "cuda", "distsgd ui", "--log", "distsgd sweep", "submit"))],
)
def test_a_command_of_ours_runs(command, checkout):
    words = shlex.split(command)[1:]
    if "--resume" in words:
        begun = [word for word in words if word != "--resume"]
        assert invoke(*begun, *QUICK).code == 0
    if words[0] in USE:
        assert invoke("train", "--data", "train.parquet", "--run-dir", words[1], *QUICK).code == 0
    found = invoke(*words, *QUICK_OPTIONS.get(words[0], []))
    assert found.code == 0, found.err
    assert found.out or "--resume" in words


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in OURS if c.startswith("distsgd sync") or "--log" in c])
def test_a_run_is_sent_to_mlflow_by_the_command(command, checkout, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = shlex.split(command)[1:]
    assert invoke("train", "--data", "train.parquet", "--run-dir", words[1], *QUICK).code == 0
    found = invoke(*words)
    assert found.code == 0, found.err
    assert "FINISHED" in found.out or "MLflow run" in found.out


@pytest.mark.parametrize("command", [command for command in OURS if command.startswith("distsgd sweep")])
def test_a_sweep_can_be_made(command):
    """Sweeps are run in tests/sweeps."""
    given = main.commands["sweep"].make_context("sweep", shlex.split(command)[2:]).params
    if not given["resume"]:
        base = Config.build(parse_assignments(given["assignments"]))
        asked = SearchOptions.parsed(**{name: given[name] for name in SWEEP_OPTIONS})
        assert asked.space(base).settings > 1


@pytest.mark.parametrize("command", [command for command in OURS if command.startswith("distsgd ui")])
def test_a_command_that_serves_until_it_is_interrupted_is_valid(command):
    """It is run in tests/tracking/test_pages.py."""
    main.commands["ui"].make_context("ui", shlex.split(command)[2:])


@pytest.mark.parametrize("command", [command for command in OURS if command.startswith("distsgd submit")])
def test_a_command_that_submits_prints_what_it_would(command, checkout):
    found = invoke(*shlex.split(command.replace("$PWD", str(checkout)))[1:], "--print")
    assert (found.code, found.err) == (0, "")
    assert "--run-dir" in found.out


@pytest.mark.parametrize("command", [command for command in OURS if "cuda" in command])
def test_a_command_for_gpus_is_valid(command):
    config_of(shlex.split(command)[2:])


@pytest.mark.parametrize("command", JOBS)
def test_a_job_is_what_ray_and_distsgd_take(command):
    from ray.dashboard.modules.job.cli import submit

    words = shlex.split(command)[3:]
    at = words.index("--")
    given = submit.make_context("submit", list(words)).params
    assert given["working_dir"] == "."
    entry = words[at + 1 :]
    assert list(given["entrypoint"]) == entry
    assert entry[0] == "python"
    assert (REPOSITORY / entry[1]).is_file()
    config_of(entry[2:])
    assert entry[entry.index("--run-dir") + 1].startswith("/")  # on storage that stays


@pytest.mark.parametrize("command", MODULES)
def test_a_module_has_the_options_that_are_given_it(command):
    _, _, name, *arguments = shlex.split(command)
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    source = "".join(file.read_text(encoding="utf-8") for file in Path(found.origin).parent.glob("*.py"))
    for word in arguments:
        assert not word.startswith("--") or f'"{word}"' in source
