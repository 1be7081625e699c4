"""A few hostile inputs of each kind; `python -m tests.hostile` tries any number."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostile import campaign, configurations, inputs, journals, models, odd, paths, rundirs, uris
from hostile.sandbox import Problem, Sandbox

LIMIT_S = 20.0
"""Seconds for one command, in which nothing here takes more than one."""

pytestmark = pytest.mark.timeout(240)

few = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("h"), limit_s=LIMIT_S)
    with sandbox.entered():
        campaign.warm_up(sandbox)
        yield sandbox
    sandbox.clean()


def assert_treated_well(check: Any, case: Any, sandbox: Sandbox) -> None:
    sandbox.clean()
    problems = check(case, sandbox)
    assert not problems, "\n".join(f"{problem.kind}: {problem.text}" for problem in problems)


@few(max_examples=60)
@given(case=configurations.cases())
@example(case=configurations.Case(("--set=optim.lr=" + "9" * 5000,), None))
@example(case=configurations.Case(("--set=data.features=" + "[" * 3000,), None))
@example(case=configurations.Case((), b"a = " + b"[" * 100_000))
def test_configurations(case, sandbox):
    assert_treated_well(configurations.check, case, sandbox)


@few(max_examples=40)
@given(case=paths.cases())
@example(case=paths.Case("data", "pipes"))
@example(case=paths.Case("sync", "full"))
def test_paths(case, sandbox):
    assert_treated_well(paths.check, case, sandbox)


@few(max_examples=8)
@given(case=uris.cases())
@example(case=uris.Case("http://me:s3cretMARK@hunter2MARK@127.0.0.1:9", "set"))
@example(case=uris.Case("sqlite://me@h/a?user=me&password=s3cretMARK$hunter2MARK", "set"))
@example(case=uris.Case("http://me:s3cretMARKhunter2MARK@127.0.0.1:9/rows.csv", "data"))
@example(case=uris.Case("http://127.0.0.1:9/?user=me&password=s3cretMARKhunter2MARK", "set"))
def test_uris(case, sandbox):
    assert_treated_well(uris.check, case, sandbox)


@pytest.mark.slow
@few(max_examples=8)
@given(case=rundirs.cases())
@example(case=rundirs.Case("finished", (rundirs.Blow("model.npz", None, "gone"),)))
@example(case=rundirs.Case("finished", (rundirs.Blow("model.npz", odd.Damage("flip a bit", 0.5, 3, b""), None),)))
@example(case=rundirs.Case("interrupted", (rundirs.Blow("mlflow.json", None, "fifo"),)))
@example(case=rundirs.Case("interrupted", (rundirs.Blow("metrics.jsonl", None, "/dev/null"),)))
@example(case=rundirs.Case("interrupted", (rundirs.Blow("newest.json", None, "/dev/full"),)))
@example(case=rundirs.Case("interrupted", (rundirs.Blow("tracking.json", None, "full folder"),)))
@example(case=rundirs.Case("interrupted", (rundirs.Blow("checkpoints", None, "link to the rows"),)))
def test_run_directories(case, sandbox):
    assert_treated_well(rundirs.check, case, sandbox)


@few(max_examples=4)
@given(case=journals.cases())
@example(case=journals.Case("interrupted", ((0.03, b'{"step": 458, "epoch": 2.3}'), (0.4, b"x")), ()))
@example(case=journals.Case("never checkpointed", (), (odd.Damage("swap lines", 1e-05, 7, b""),)))
@example(case=journals.Case("unwritten", ((0.0, b'{"step": 1, "epoch": 1, "val/loss": 1}'),), ()))
def test_journals(case, sandbox):
    assert_treated_well(journals.check, case, sandbox)


@few(max_examples=60)
@given(case=models.cases())
def test_models(case, sandbox):
    assert_treated_well(models.check, case, sandbox)


@few(max_examples=40)
@given(case=inputs.cases())
@example(case=inputs.Case("rows.csv", b"#Ly7\xb1~\x0f$\r"))
def test_bytes(case, sandbox):
    assert_treated_well(inputs.check, case, sandbox)


# The command and its oracle: what they would not notice, nobody would.


def test_a_seed_stands_for_the_same_cases():
    drawn = [campaign.draw(configurations.cases(), seed, 20) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_seed_stands_for_as_many_cases_as_are_asked_for():
    assert len(campaign.draw(st.sampled_from(range(3)), 0, 100)) == 100
    assert len(campaign.draw(st.integers(0, 400).filter(lambda number: number % 19 == 0), 0, 100)) == 100


def test_fewer_inputs_than_asked_for_are_no_success(monkeypatch):
    from hostile import __main__ as command

    monkeypatch.setattr(command, "try_batch", lambda name, seed, *, count, **_: (count - (name == "paths"), []))
    monkeypatch.setattr(signal, "signal", lambda signum, handler: None)
    all_tried = CliRunner().invoke(command.main, ["--only=models,uris", "--examples=100"])
    assert (all_tried.exit_code, all_tried.stdout.splitlines()[-1]) == (0, "100 of 100 inputs tried: all")
    too_few = CliRunner().invoke(command.main, ["--only=paths,uris", "--examples=100"])
    assert (too_few.exit_code, too_few.stdout.splitlines()[-1]) == (1, "99 of 100 inputs tried: NOT ALL")


def _hang(case: str, sandbox: Sandbox) -> list[Problem]:
    if case == "hang":
        return sandbox.call(signal.pause)
    if case == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "leave":
        os._exit(0)
    if case == "leak":
        return sandbox.call(lambda: os.dup(2) and None)
    if case == "child":
        return sandbox.call(lambda: subprocess.Popen(["sleep", "60"]) and None)
    if case == "raise":
        return sandbox.call(lambda: {}["x"])
    return sandbox.call(lambda: None)


@pytest.mark.slow
def test_a_campaign_finds_what_hangs_crashes_and_stays_behind(monkeypatch):
    cases = ["fine", "hang", "crash", "leave", "leak", "raise", "child", "fine"]
    monkeypatch.setattr(campaign, "generator", lambda name: campaign.Generator(cases=list, check=_hang))
    monkeypatch.setattr(campaign, "draw", lambda strategy, seed, count: cases)
    monkeypatch.setattr(campaign, "warm_up", lambda sandbox: None)
    tried, failures = campaign.try_batch("x", 0, limit_s=2)
    assert tried == len(cases)
    kinds = {failure.case: failure.problem.kind for failure in failures}
    assert kinds == {
        "'hang'": "hang",
        "'crash'": "traceback",
        "'leave'": "traceback",
        "'leak'": "leftover",
        "'raise'": "traceback",
        "'child'": "leftover",
    }
    assert all(f"--seed 0 --case {cases.index(failure.case.strip(chr(39)))}" in str(failure) for failure in failures)


def test_the_sandbox_sees_secrets_and_files(sandbox):
    sandbox.clean()
    before = sandbox.files()
    (sandbox.home / ".cache").write_text(json.dumps({"uri": "http://me:s3cretMARK@h"}))
    assert [problem.kind for problem in sandbox.holding(*uris.MARKS)] == ["secret"]
    assert [problem.kind for problem in sandbox.left_behind(before)] == ["leftover"]


@pytest.mark.slow
def test_the_command_prints_a_tally_and_how_to_replay():
    root = Path(__file__).resolve().parents[2]
    arguments = ["--only", "models", "--examples", "12", "--seed", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", *arguments], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "│ all" in line and "│ 12 " in line]
