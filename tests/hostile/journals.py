"""Odd journals: lines that are no records, records out of order, twice, or gone, numbers that no float holds."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile import odd, rundirs
from hostile.generator import Generator
from hostile.sandbox import Problem, Sandbox

VALUES = (
    "1",
    "-1",
    "0.5",
    "1e400",
    "NaN",
    "Infinity",
    "9" * 401,
    "9" * 5000,
    "true",
    "null",
    '"x"',
    "[]",
    "{}",
    "1e3",
    "9007199254740993",
)


@dataclass(frozen=True)
class Case:
    """The stage of a run whose journal is changed: lines put in, then damages to its bytes."""

    stage: str
    lines: tuple[tuple[float, bytes], ...]
    damages: tuple[odd.Damage, ...]


def lines() -> SearchStrategy[bytes]:
    """Lines of a journal, most of them none."""
    keys = st.sampled_from(
        ["step", "epoch", "train/loss", "val/loss", "val/accuracy", "timestamp_ms", "time/step_ms", "x"]
    )
    record = st.dictionaries(keys, st.sampled_from(VALUES), max_size=4).map(
        lambda pairs: "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs.items()) + "}"
    )
    step = st.builds('{{"step": {}, "epoch": {}}}'.format, st.integers(-2, 700), st.floats(0, 6))
    return st.one_of(record.map(str.encode), step.map(str.encode), odd.contents())


def cases() -> SearchStrategy[Case]:
    """Journals of runs."""
    put_in = st.lists(st.tuples(st.floats(0, 1), lines()), max_size=2).map(tuple)
    return st.builds(Case, st.sampled_from(rundirs.STAGES[1:]), put_in, st.lists(odd.damages(), max_size=2).map(tuple))


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Resume the run, and tell MLflow of it, which is away."""
    undisturbed, run = rundirs.template(sandbox), sandbox.work / "run"
    sandbox.clean()
    rundirs.put(case.stage, undisturbed, run)
    content = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    for where, line in case.lines:
        content.insert(int(where * len(content)), line + b"\n")
    data = b"".join(content)
    for damage in case.damages:
        data = damage.done_to(data)
    (run / "metrics.jsonl").write_bytes(data)
    return rundirs.judge_resumption(sandbox, undisturbed)


GENERATOR = Generator(cases, check, share=1.5)
