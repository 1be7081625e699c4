"""What a job is told: the same configuration, under a name that the same request gives again."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import invoke

from distsgd.config import Config, parse_assignments
from distsgd.errors import ConfigError
from distsgd.submission import package
from distsgd.submission.ray_job import RayJob
from distsgd.submission.request import Request, assignment

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = {"run.dir": "/shared/runs/mine"}

VALUES = st.recursive(
    st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def request(*layers: dict, shared: bool = False) -> Request:
    return Request.of(Config.build(RUN, *layers), shared=shared)


@given(VALUES | st.dictionaries(st.text(), st.floats(0, 5), max_size=3))
def test_an_assignment_reads_as_the_value_it_was_made_from(value):
    if isinstance(value, dict) or (isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)):
        value = {"a b": 1.5} if isinstance(value, dict) else "x"
    assert parse_assignments([assignment("optim.lr", value)]) == {"optim.lr": value}


def test_the_words_of_a_job_are_its_configuration():
    values = {
        "data.train": "/data/new rows/*.parquet",
        "data.label": "7",
        "data.features": ["a", "b c"],
        "train.class_weight": {"spam mail": 2.5},
        "tracking.enabled": False,
        "optim.lr": 1e-05,
        "run.name": "it's",
    }
    words = shlex.split(shlex.join(request(values).words))
    assignments = [word for option, word in itertools.pairwise(words) if option == "--set"]
    read = Config.build(parse_assignments(assignments), {"run.dir": words[words.index("--run-dir") + 1]})
    assert read == Config.build(RUN, values)
    assert "--resume-or-start" in words


def test_the_name_is_that_of_run_directory_rows_and_configuration():
    name = request().name
    assert re.fullmatch("distsgd-mine-[0-9a-f]{10}", name)
    assert request({"run.workers": 2}).name == name  # which does not change the result
    assert request({"optim.lr": 0.2}).name != name
    assert request({"run.dir": "/other/runs/mine"}).name != name
    assert request({"data.train": "/data/a.parquet"}).name != request({"data.train": "/data/b.parquet"}).name


@given(st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1))
def test_the_name_is_one_for_kubernetes(folder):
    name = request({"run.dir": f"/runs/{folder}"}).name
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 39


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run.dir": "runs/mine"}, ["run.dir is 'runs/mine'", "absolute"]),
        ({"run.dir": "~/mine"}, ["run.dir is '~/mine'", "absolute"]),
        ({"data.train": "rows.parquet"}, ["data.train is 'rows.parquet'", "not uploaded"]),
        ({"data.train": "digits", "data.val": "val.parquet"}, ["data.val is 'val.parquet'"]),
        ({"data.train": "in-memory"}, ["data.train is 'in-memory'"]),
        ({"run.address": "10.0.0.1:6379"}, ["run.address", "leave it out"]),
        ({"tracking.uri": "postgresql://me:secret@db/mlflow"}, ["tracking.uri is 'postgresql://***@db/mlflow'"]),
    ],
)
def test_what_means_nothing_elsewhere_is_refused(values, words):
    with pytest.raises(ConfigError) as refused:
        request(values)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "secret@" not in str(refused.value)


def test_without_a_run_directory_it_is_refused():
    with pytest.raises(ConfigError, match=r"run\.dir is not set"):
        Request.of(Config(), shared=True)


def test_paths_of_a_shared_file_system_are_made_absolute(own_folder):
    made = request({"run.dir": "runs/mine", "data.train": "rows.parquet"}, shared=True)
    assert made.run_dir == str(own_folder / "runs" / "mine")
    assert f"data.train={own_folder / 'rows.parquet'}" in made.words


def test_the_package_holds_code_and_nothing_else(tmp_path, monkeypatch):
    """Whatever lies beside the code, and in the current folder, stays where it is."""
    folder = tmp_path / "distsgd"
    for name in ("__init__.py", "core/net.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("pass\n")
    for name in (
        "rows.parquet",
        "mlflow.db",
        "token",
        ".env",
        "model.npz",
        "core/00000012.npz",
        "core/net.pyc",
        "x.csv",
    ):
        (folder / name).write_text("secret")
    (folder / "link.py").symlink_to(folder / "token")
    monkeypatch.setattr(package, "SOURCES", folder)
    monkeypatch.chdir(folder)
    package.write(tmp_path / "a.zip", "train", code=True)
    with zipfile.ZipFile(tmp_path / "a.zip") as zipped:
        assert sorted(zipped.namelist()) == ["distsgd/__init__.py", "distsgd/core/net.py", "jobs/train.py"]
        assert b"secret" not in b"".join(map(zipped.read, zipped.namelist()))
    assert list(package.contents("train", code=False)) == ["jobs/train.py"]


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_entry_point_is_that_of_the_checkout(command):
    entry = REPOSITORY / "jobs" / f"{command}.py"
    assert package.contents(command, code=False) == {f"jobs/{command}.py": entry.read_bytes()}


def test_a_sweep_is_submitted_likewise(own_folder):
    words = ["submit", "--run-dir", "/runs/s", "--grid", "optim.lr=0.1,0.2", "--random", "optim.l2=log:1e-6:1e-2"]
    found = invoke(*words, "--trials", "4", "--print")
    entry = "python jobs/sweep.py --run-dir /runs/s --grid optim.lr=0.1,0.2 --random optim.l2=log:1e-6:1e-2 --trials 4"
    assert f'"entrypoint": "{entry} --resume-or-start"' in found.out
    assert '"jobs/sweep.py"' in found.out
    for more, message in ((["--grid", "optim.lr"], "--grid"), ([], "add --grid or --random")):
        found = invoke("submit", "--run-dir", "/runs/s", "--trials", "4", *more)
        assert (found.code, message in found.err) == (2, True), found


def test_the_same_code_is_the_same_package_and_far_below_rays_limit(tmp_path):
    for name in ("a.zip", "b.zip"):
        package.write(tmp_path / name, "train", code=True)
    content = (tmp_path / "a.zip").read_bytes()
    assert content == (tmp_path / "b.zip").read_bytes()
    assert len(content) < 5e6  # Ray refuses 100 MB
    names = set(package.contents("train", code=True))
    assert {"distsgd/cli/__main__.py", "distsgd/engine/serial.py"} <= names
    assert {name.rpartition(".")[2] for name in names} == {"py"}


def test_what_is_printed_is_what_is_submitted():
    job = RayJob(request({"optim.lr": 0.2}), "http://127.0.0.1:8265", True, "distsgd submit x")
    shown = job.manifest()
    assert (
        '"entrypoint": "python jobs/train.py --set optim.lr=0.2 --run-dir /shared/runs/mine --resume-or-start"' in shown
    )
    assert '"RAY_JOB_STOP_WAIT_TIME_S": "60"' in shown
    files = json.loads(shown)["files"]
    every = package.contents("train", code=True)
    assert (files["count"], files["bytes"]) == (len(every), sum(map(len, every.values())))
    assert files["first"] == list(every)[:5]
    assert len(shown.splitlines()) < 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes=3"], "--nodes is for --to kubernetes and --to slurm, and not for --to ray"),
        (["--to=slurm", "--image=x"], "--image is for --to kubernetes, and not for --to slurm"),
        (["--to=kubernetes", "--installed"], "--installed is for --to ray, and not for --to kubernetes"),
    ],
)
def test_options_of_another_kind_of_cluster_are_refused(arguments, said):
    outcome = invoke("submit", "--run-dir=/shared/runs/mine", *arguments, "--print")
    assert outcome.code == 2
    assert said in outcome.err
