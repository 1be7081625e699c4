"""Pages whose blocks build on each other: their programs and commands run in order, and print what the pages show.

docs/tutorial.md runs as a user runs it, in a shell and with real Ray; docs/recipes.md in this process, without Ray.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from distsgd.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"

BLOCK = re.compile(r"^(?:<!-- (.+) -->\n)?```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_HERE = "not run here: "

HERE = ["--workers", "0", "--set", "tracking.enabled=false"]
"""What `distsgd train` is run with in this process."""

CLOSE = ("val accuracy", "val macro-F1", "val ROC-AUC", "mean recall", "val loss", "label acc.", "accuracy")
"""Figures that depend on the processor in their last digits alone."""

LIMIT_S = 900
"""Seconds for the whole tutorial, on a machine that is busy with other things."""

ISOLATED = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
"""Processes, ports and shared memory of their own: `pgrep` and `ray stop` see nothing else, and all ends with it."""


class Block(NamedTuple):
    """A fenced block of a page."""

    comment: str
    kind: str
    content: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))]


def shown(page: str) -> list[str]:
    """Return the outputs that a page shows: those of each `text` block's predecessor."""
    found = blocks(page)
    assert all(found[i - 1].kind != "text" for i, block in enumerate(found) if block.kind == "text")
    return [block.content for block in found if block.kind == "text"]


def without_numbers(line: str) -> str:
    """Return a line without what differs from run to run: numbers, a host's name, how a loss is noticed, gaps."""
    line = re.sub(r"\b[0-9a-f]{12,}\b|\d[\d,.:_-]*", "#", line)
    line = re.sub(r" on \S+ was lost in step.*", " on HOST was lost", line)
    return " ".join(line.split())


def check(expected: str, output: str) -> None:
    """Check that the lines of `expected` are among those of the output, in this order, with figures that are close."""
    lines = iter(output.splitlines())
    for line in expected.splitlines():
        if line == "[...]":
            continue
        same = next((found for found in lines if without_numbers(found) == without_numbers(line)), None)
        assert same is not None, f"{line!r} is not in order among the lines of:\n{output}"
        if line.strip().startswith(CLOSE):
            figures = [[float(number) for number in re.findall(r"\d+\.\d+", text)] for text in (same, line)]
            assert figures[0] == pytest.approx(figures[1], abs=0.03), line


def test_numbers_may_differ_and_words_may_not():
    check("step 3  loss 0.5\n[...]\nval accuracy  0.98", "step 4 loss 0.7\nmore\nval accuracy 0.97\n")
    with pytest.raises(AssertionError, match="not in order"):
        check("b\na", "a\nb\n")
    with pytest.raises(AssertionError, match="val accuracy"):
        check("val accuracy  0.98", "val accuracy 0.78\n")


@pytest.mark.parametrize("page", ["tutorial.md", "recipes.md"])
def test_what_is_not_run_here_is_run_elsewhere(page):
    for comment, *_ in blocks(page):
        assert not comment or (comment.startswith(NOT_HERE) and (REPOSITORY / comment.removeprefix(NOT_HERE)).is_file())


def test_the_recipes_run(own_folder):
    names: dict[str, object] = {}
    output = ""
    for comment, kind, content in blocks("recipes.md"):
        assert not comment
        if kind == "text":
            check(content, output)
            continue
        output = ""
        if kind == "python":
            exec(compile(content, "docs/recipes.md", "exec"), names)
            continue
        for line in content.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            assert program == "distsgd"
            given = [*words, *(HERE if words[0] == "train" else [])]
            found = CliRunner().invoke(main, given, catch_exceptions=False)
            assert found.exit_code == 0, found.output
            output += found.output


def script(page: str) -> str:
    """Return a page's programs and commands as one shell script, which prints a line before each block's output."""
    lines = ["set -eu", "ip link set lo up", "mount -t tmpfs tmpfs /dev/shm"]
    for number, (comment, kind, content) in enumerate(blocks(page)):
        if comment or kind == "text":
            continue
        lines += [f"echo '== {number}'", content if kind == "sh" else f"python - <<'PROGRAM'\n{content}PROGRAM"]
    return "\n".join([*lines, "echo '== end'"])


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_the_tutorial_runs(tmp_path):
    alone = ISOLATED if os.geteuid() == 0 else [*ISOLATED, "--user", "--map-root-user"]
    possible = subprocess.run([*alone, "sh", "-c", "ip link set lo up"], capture_output=True, text=True, check=False)
    if possible.returncode:
        pytest.skip(f"namespaces are refused, which the tutorial needs to run alone: {possible.stderr.strip()}")
    for name in ("jobs", "distsgd"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in (".rayignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    # Ray's sockets need a folder with a short name.
    with tempfile.TemporaryDirectory(prefix="dt", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        places = {"HOME": temporary, "TMPDIR": temporary, "RAY_TMPDIR": temporary}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        program, log = tmp_path.parent / "tutorial.sh", tmp_path.parent / "output"
        program.write_text(script("tutorial.md"))
        with open(log, "w") as output:
            ended = subprocess.Popen(
                [*alone, "bash", str(program)], cwd=tmp_path, env=kept | places | {"PATH": path},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                ended.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                ended.kill()
                ended.wait()
    printed = log.read_text()
    assert ended.returncode == 0, printed
    outputs = dict(re.findall(r"^== (\d+)\n(.*?)(?=^== )", printed, re.MULTILINE | re.DOTALL))
    found = blocks("tutorial.md")
    for number, block in enumerate(found):
        if block.kind == "text":
            check(block.content, outputs[str(number - 1)])
    hashes = [re.findall(r'"weights_sha256": "(\w+)"', outputs[str(number)]) for number in map(int, outputs)]
    assert {len(set(of_block)) for of_block in hashes if len(of_block) > 1} == {1}
