"""README.md and its neighbours say what is so: commands, keys, links, versions."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from distsgd.cli import main
from distsgd.config import known_keys

ACTIVATE = ". .venv/bin/activate"
REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FOR_USERS = [page for page in PAGES if page.stem not in ("CHANGELOG", "architecture", "development", "experiments")]
"""Pages whose dotted names are keys."""

FILE_ENDINGS = ("md", "npz", "parquet", "py", "csv", "onnx", "safetensors", "skops", "toml", "log", "json")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, str]:
    """Return the exact version of each package in constraints.txt, by its normalised name."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def shell_lines() -> list[str]:
    """Return the lines of the README's shell blocks, continued ones joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def test_the_two_commands_are_on_the_first_screen():
    first_screen = README.splitlines()[:50]
    assert f"python3 -m venv .venv && {ACTIVATE} && pip install -c constraints.txt . && distsgd train" in first_screen
    assert f"{ACTIVATE} && pip install -c constraints.txt '.[test]' && pytest" in first_screen


def test_the_first_command_makes_the_environment_that_all_others_use():
    """The Python of Debian and Ubuntu refuses `pip install` outside of one (PEP 668)."""
    with_pip = [line.split(" && ") for line in shell_lines() if "pip install" in line]
    assert with_pip[0][:2] == ["python3 -m venv .venv", ACTIVATE]
    assert with_pip[1][0] == ACTIVATE
    assert ".venv/" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()  # and no job uploads it
    for line in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines():
        assert "pip install" not in line or line.startswith(("#", "check "))


def test_the_supported_pythons_are_the_same_everywhere():
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    oldest, newest = named[0], named[-1]
    assert PROJECT["requires-python"] == f">={oldest},<3.{int(newest.split('.')[1]) + 1}"
    assert f"With Python {oldest} to {newest} on Linux" in README
    assert f"Python {oldest} to {newest}" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_commands():
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    for command in ("pip install --quiet -c constraints.txt .", "pip install --quiet -c constraints.txt '.[test]'"):
        assert re.search(rf"^check .* {re.escape(command)}$", script, re.MULTILINE)
    for command in ("pytest", "ruff check .", "ruff format --check .", "mypy"):
        assert f'check "{command}" {command}\n' in script


def test_commands_have_the_options_that_the_readme_gives_them():
    commands = [shlex.split(line, comments=True) for line in shell_lines()]
    ours = [words[1:] for words in commands if words[0] == "distsgd"]
    ours += [["train", *words[words.index("jobs/train.py") + 1 :]] for words in commands if "jobs/train.py" in words]
    assert len(ours) >= 8
    for words in ours:
        command = main.commands[words[0]]
        context = command.make_context(words[0], list(words[1:]), resilient_parsing=False)
        assert isinstance(context, click.Context)
        for assignment in context.params.get("assignments", ()):
            assert assignment.partition("=")[0] in known_keys()
        config = context.params.get("config")
        assert config is None or (REPOSITORY / config).is_file()


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda page: page.name)
def test_keys_in_the_text_exist(page):
    sections = {key.split(".")[0] for key in known_keys()}
    text = re.sub(r"^```python.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(rf"(?<![\w./])((?:{'|'.join(sections)})\.[a-z_0-9]+)\b", text))
    files = {name for name in named if name.partition(".")[2] in FILE_ENDINGS}
    assert named - files <= set(known_keys())


def test_tables_of_keys_are_the_codes():
    path = REPOSITORY / "docs" / "configuration_table.py"
    spec = importlib.util.spec_from_file_location("configuration_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert module.replaced(page) == page, "run `python docs/configuration_table.py`"
    assert all(f"| `{key}` |" in page for key in known_keys())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_tree_of_the_architecture_page_is_the_packages():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("```text\ndistsgd/\n")[2].partition("```")[0]
    named, folder = set(), ""
    for line in tree.splitlines():
        name = line.lstrip("│├└─ ").split()[0]
        if name.endswith("/"):
            folder = name
        else:
            named.add(f"{folder if line.startswith(('│', ' ')) else ''}{name}")
    package = REPOSITORY / "distsgd"
    files = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert named == {name for name in files if not name.endswith(("__init__.py", "__main__.py"))}


def test_constraints_are_exact_and_name_no_place():
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", line) for line in lines)
    assert "://" not in text


def test_constraints_cover_what_is_declared():
    exact = constraints()
    optional = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(line for name in optional if name != "bench" for line in optional[name])]
    for line in declared:
        requirement = Requirement(line)
        version = exact[normal(requirement.name)]
        assert requirement.specifier.contains(version), line


def test_rays_version_is_exact_everywhere():
    (ray,) = [line for line in PROJECT["dependencies"] if line.startswith("ray")]
    assert ray == f"ray[default]=={constraints()['ray']}"


def test_packages_come_from_where_pip_is_set_to_look():
    committed = [*PAGES, *(REPOSITORY / name for name in ("pyproject.toml", ".ci/run", "docker/Dockerfile"))]
    for path in committed:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"--(extra-)?index|--find-links", text), path
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        assert hosts <= {"docs.ray.io", "mlflow.example.org", "127.0.0.1", "localhost"}, path


def test_output_in_the_readme_has_the_form_of_a_run():
    (block,) = re.findall(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    names = [re.split(r"\s{2,}", line)[0] for line in block.splitlines()[1:]]
    assert "val accuracy" in names
    accuracy = float(re.search(r"^val accuracy\s+(\S+) ", block, re.MULTILINE).group(1))
    assert 0.97 <= accuracy <= 1


def test_pre_commit_fetches_nothing():
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert set(re.findall(r"language: (\S+)", text)) == {"system"}


@pytest.mark.parametrize("name", ["dataflow.svg", "house.svg"])
def test_picture_needs_nothing_else(name):
    picture = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert picture.startswith("<svg ")
    assert "href" not in picture  # nothing is fetched to show it


def test_picture_of_the_packages_shows_the_floors():
    layers = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (floors,) = (contract["layers"] for contract in layers["contracts"] if contract["id"] == "floors")
    picture = (REPOSITORY / "docs" / "house.svg").read_text(encoding="utf-8")
    boxes = re.findall(r'<text class="name" x="\d+" y="(\d+)">(\w+)</text>', picture)
    drawn = {y: " | ".join(name for at, name in boxes if at == y) for y in dict.fromkeys(y for y, _ in boxes)}
    assert list(drawn) == sorted(drawn, key=int)
    expected = [sorted(floor.replace("distsgd.", "").split(" | ")) for floor in floors]
    assert [sorted(names.split(" | ")) for names in drawn.values()] == expected
