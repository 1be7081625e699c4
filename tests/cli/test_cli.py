"""What the command refuses: one or two lines, exit code 2, and no trace of a run."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import is_readable, list_table, some_rows, wide_table
from runs import RAY_ENVIRONMENT, Cli, Outcome, invoke, options, slow_but_for

import distsgd
from distsgd.core.backend import cuda_problem

X, Y = some_rows(count=40)

SECONDS = 20
"""In which a refusal has to come on a busy machine; on a quiet one it takes one, or what reaching a cluster takes."""

pytestmark = pytest.mark.usefixtures("own_folder")


def assert_refused(found: Outcome, *words: str) -> None:
    """Check that the command said `words` in a line or two or as a list, and left no run in the current folder."""
    assert found.code == 2, found
    assert found.out == ""
    before, _, message = found.err.rpartition("distsgd: ")
    assert before.count("\n") <= 1, found.err
    assert is_readable(message), found.err
    assert "Traceback" not in found.err
    for word in words:
        assert word in found.err
    left = {path.name for path in Path().iterdir()}
    assert not left & {"runs", "run", "mlflow.db", "mlruns"}, left


def write(table: pa.Table, name: str) -> str:
    pq.write_table(table, name)
    return name


def with_value(value: float, row: int, column: str) -> str:
    """Return a Parquet file with a column for each feature, one of whose values is `value`."""
    table = wide_table(X, Y)
    values = table.column(column).to_pylist()
    values[row] = value
    return write(table.set_column(table.column_names.index(column), column, pa.array(values)), "rows.parquet")


def truncated() -> str:
    content = Path(write(list_table(X, Y), "rows.parquet")).read_bytes()
    Path("rows.parquet").write_bytes(content[:-100])
    return "rows.parquet"


def text(content: str) -> str:
    Path("rows.parquet").write_text(content)
    return "rows.parquet"


BAD_ROWS: dict[str, tuple[Callable[[], str], dict[str, Any], tuple[str, ...]]] = {
    "missing file": (lambda: write(list_table(X, Y), "train.parquet") and "trian.parquet", {}, ("'train.parquet'",)),
    "empty file": (lambda: text(""), {}, ("rows.parquet", "empty")),
    "no rows": (lambda: write(list_table(X[:0], Y[:0]), "rows.parquet"), {}, ("rows.parquet", "no rows")),
    "truncated": (truncated, {}, ("rows.parquet",)),
    "a text": (lambda: text("a,b,label\n1,2,3\n"), {}, ("rows.parquet", "Parquet")),
    "no label column": (lambda: write(wide_table(X, Y, label="lable"), "rows.parquet"), {}, ("'label'", "'lable'")),
    "null feature": (lambda: with_value(None, 7, "f1"), {}, ("rows.parquet", "'f1'", "null", "row 7")),
    "null label": (lambda: with_value(None, 5, "label"), {}, ("rows.parquet", "'label'", "null", "row 5")),
    "NaN": (lambda: with_value(np.nan, 9, "f2"), {}, ("rows.parquet", "'f2'", "nan", "row 9")),
    "infinity": (lambda: with_value(-np.inf, 4, "f0"), {}, ("rows.parquet", "'f0'", "-inf", "row 4")),
    "label out of range": (
        lambda: write(list_table(X, Y + 1), "rows.parquet"),
        {"data.classes": 4},
        ("rows.parquet", "'label'", "4"),
    ),
    "one class": (
        lambda: write(list_table(X, Y * 0), "rows.parquet"),
        {},
        ("rows.parquet", "every label", "two classes"),
    ),
    "no such feature": (
        lambda: write(wide_table(X, Y), "rows.parquet"),
        {"data.features": '["f0", "g1"]'},
        ("'g1'", "rows.parquet"),
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case):
    make, values, words = BAD_ROWS[case]
    assert_refused(invoke("train", "--data", make(), "--run-dir", "run", *options(values)), *words)


def test_held_out_rows_with_other_columns():
    write(wide_table(X, Y), "rows.parquet")
    write(wide_table(X[:, :2], Y), "val.parquet")
    assert_refused(invoke("train", "--data", "rows.parquet", "--val", "val.parquet"), "val.parquet", "'f2'")


BAD_OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown key": (options({"optim.learning_rate": 1}), ("'optim.learning_rate'",)),
    "mistyped key": (options({"train.batchsize": 64}), ("'train.batchsize'", "'train.batch_size'")),
    "key without its section": (options({"lr": 1}), ("'lr'", "'optim.lr'")),
    "a section": (options({"train": 1}), ("train", "section")),
    "text for a number": (options({"train.epochs": "many"}), ("train.epochs", "'many'")),
    "half an epoch": (options({"train.epochs": 1.5}), ("train.epochs", "1.5")),
    "lr of zero": (options({"optim.lr": 0}), ("optim.lr", "greater than 0")),
    "negative lr": (options({"optim.lr": -0.1}), ("optim.lr is -0.1", "greater than 0")),
    "infinite lr": (options({"optim.lr": "inf"}), ("optim.lr", "inf")),
    "small batch": (options({"train.batch_size": 3}), ("train.batch_size is 3", "train.num_shards, 4")),
    "many workers": (["--workers", "5"], ("run.workers is 5", "train.num_shards, 4")),
    "negative workers": (["--workers", "-1"], ("run.workers",)),
    "more workers than this machine carries": (
        ["--workers", "5000", *options({"train.num_shards": 5000, "train.batch_size": 5000})],
        ("5,000 workers", "cores"),
    ),
    "no such device": (["--device", "gpu"], ("run.device", "'gpu'", "'cuda'")),
    "no equals sign": (["--set", "optim.lr"], ("KEY=VALUE", "'optim.lr'")),
    "no such configuration": (["none.toml"], ("'none.toml'", "does not exist")),
    "a folder for a configuration": (["."], ("'.'", "directory")),
    "two sources of held-out rows": (
        ["--val", "v.parquet", *options({"data.val_fraction": 0.1})],
        ("data.val_fraction", "data.val"),
    ),
    "a store that MLflow has no longer": (options({"tracking.uri": "./mlruns"}), ("tracking.uri", "'./mlruns'")),
    "Ray Client": (["--address", "ray://127.0.0.1:10001"], ("ray://127.0.0.1:10001", "ray job submit")),
    "no address": (["--address", "somewhere"], ("'somewhere'",)),
    "nothing to resume": (["--resume", "--run-dir", "none"], ("'none'", "--resume")),
    "no run of this kind to resume": (["--resume"], ("--run-dir",)),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case):
    arguments, words = BAD_OPTIONS[case]
    assert_refused(invoke("train", *arguments), *words)


@pytest.mark.parametrize(
    "content", [b"[train\nepochs = 3", b"\xff\xfe[train]", b"train = 3\n", b"[train]\nepoch = 3\n"]
)
def test_bad_configuration_files(content):
    Path("run.toml").write_bytes(content)
    assert_refused(invoke("train", "run.toml"))


def test_options_that_do_not_exist():
    found = invoke("train", "--wrokers", "2")
    assert found.code == 2
    assert "--workers" in found.err


@pytest.mark.skipif(cuda_problem() is None, reason="there is a GPU")
@pytest.mark.parametrize("workers", [[], ["--workers", "2"], ["--workers", "0"]])
def test_cuda_without_a_gpu(own_folder, workers):
    start = time.monotonic()
    assert_refused(Cli(own_folder).run("train", "--device", "cuda", *workers), "'cuda'")
    assert time.monotonic() - start < SECONDS


def test_a_run_directory_that_holds_another_run(own_folder):
    arguments = ("--workers", "0", *options({"train.max_steps": 3, "tracking.enabled": "false"}))
    assert invoke("train", "--quiet", "--run-dir", "first", *arguments).code == 0
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    assert_refused(invoke("train", "--run-dir", "first", *arguments), "'first'", "another run", "--resume")
    assert_refused(invoke("train", "--run-dir", "first/config.json", *arguments), "is a file")
    Path("photos").mkdir()
    Path("photos/a.jpg").touch()
    assert_refused(invoke("train", "--run-dir", "photos", *arguments), "'photos'", "'a.jpg'")
    changed = invoke("train", "--resume", "--run-dir", "first", *options({"optim.lr": 0.5}))
    assert_refused(changed, "optim.lr was 0.1 and is 0.5")
    assert {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()} == before


# Ray


@contextlib.contextmanager
def listening(*, answer: bytes | None) -> Iterator[str]:
    """Yield the address of something that is no Ray: it sends `answer` to whoever connects, or nothing."""
    script = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "kept = []\n"
        "while True:\n"
        "    kept.append(server.accept()[0])\n"
        "    kept[-1].sendall(bytes.fromhex(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, (answer or b"").hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@contextlib.contextmanager
def nothing_there() -> Iterator[str]:
    """Yield an address that nobody listens at, and nobody can while the context lasts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


UNREACHABLE = {
    "nobody": nothing_there,
    "nobody who answers": lambda: listening(answer=None),
    "a web server": lambda: listening(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


@pytest.mark.parametrize("who", slow_but_for(UNREACHABLE, "nobody", "a web server"))
def test_an_address_where_no_ray_is(own_folder, who):
    with UNREACHABLE[who]() as address:
        start = time.monotonic()
        found = Cli(own_folder).run("train", "--address", address)
        assert time.monotonic() - start < SECONDS
        assert_refused(found, f"'{address}'", "ray start --head")
        by_environment = Cli(own_folder, {"RAY_ADDRESS": address}).run("train")
        assert_refused(by_environment, f"'{address}'")


@pytest.mark.slow
def test_a_cluster_that_wants_its_token(own_folder, cluster):
    start = time.monotonic()
    found = Cli(own_folder).run("train", "--address", cluster.address)
    assert time.monotonic() - start < SECONDS
    assert_refused(found, f"'{cluster.address}'", "token", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.slow
def test_more_than_a_cluster_has(own_folder, cluster):
    cli = Cli(own_folder, RAY_ENVIRONMENT)
    shards = options({"train.num_shards": 16, "train.batch_size": 64})
    start = time.monotonic()
    found = cli.run("train", "--address", cluster.address, "--workers", "6", *shards)
    assert time.monotonic() - start < SECONDS
    assert_refused(found, "6 workers", "6 CPUs", "4 in all")
    twice = cli.run("train", "--address", cluster.address, "--workers", "3", *shards, *options({"run.blas_threads": 2}))
    assert_refused(twice, "3 workers", "6 CPUs", "4 in all")
    cuda = cli.run("train", "--address", cluster.address, "--workers", "3", "--device", "cuda")
    assert_refused(cuda, "'cuda'", "3 GPUs", "Ray has 0")


# The command itself


def test_help_is_quick():
    """It imports nothing that takes a while."""
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from distsgd.cli import main\n"
        "for arguments in ('-h', 'train -h', 'sync -h', 'keys -h', '--version', 'train --bogus'):\n"
        "    CliRunner().invoke(main, arguments.split())\n"
        "heavy = {'ray', 'mlflow', 'sklearn', 'pyarrow', 'numpy', 'pydantic', 'rich', 'cupy', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"


def test_a_failure_names_the_page_on_failures_and_a_refusal_does_not(own_folder):
    diverging = options({"run.workers": 0, "optim.lr": 1e30, "tracking.enabled": "false"})
    failed = invoke("train", "--run-dir", "run", *diverging)
    assert failed.code == 1
    assert failed.err.splitlines()[-1].endswith(" (see docs/failures.md)")
    assert "docs/failures.md" not in invoke("train", "--resume", "--run-dir", "none").err


def test_help_says_what_it_is_for_and_how_to_begin():
    shown = invoke("--help").out
    assert "Train a classifier on rows of numbers by mini-batch SGD" in shown
    lines = [line.strip() for line in shown.splitlines()]
    begin = lines[lines.index("To begin with:") + 1 :][:3]
    assert [line.split("  ")[0] for line in begin] == [
        "distsgd train",
        "distsgd train --data rows.parquet",
        "distsgd keys",
    ]
    assert max(map(len, lines)) < 80
    assert "..." not in shown.partition("Commands:")[2]  # no sentence is cut


def test_help_names_what_there_is():
    shown = invoke("train", "--help").out
    for option in (
        "--set",
        "--data",
        "--val",
        "--workers",
        "--device",
        "--address",
        "--run-dir",
        "--resume",
        "--quiet",
    ):
        assert option in shown
    assert "130 or 143" in " ".join(shown.split())
    assert invoke("--version").out == f"distsgd, version {distsgd.__version__}\n"
