"""Bytes in place of each file that is read from outside: those of another file, damaged ones, and any at all."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile import models, odd, rundirs
from hostile.generator import Generator, small_run
from hostile.sandbox import Problem, Sandbox

IN_A_RUN = (
    "metrics.jsonl",
    "proof.jsonl",
    "newest.json",
    "newest.npz",
    "tracking.json",
    "mlflow.json",
    "result.json",
    "config.json",
)

FILES = (*IN_A_RUN, "model.npz", "rows.csv", "rows.npz", "rows.parquet", "rows.arrow", "given.toml")

STARTS: tuple[bytes, ...] = (
    b"",
    b"a,b,label\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n9,1,0\n2,3,1\n4,5,0\n6,7,1\n",
    b'a,label\n"1,0\n',
    b"a,a,label\n1,2,0\n",
    b"PAR1" + bytes(20) + b"\x04\0\0\0PAR1",
    b"ARROW1\0\0" + bytes(20) + b"\x04\0\0\0ARROW1",
    b"\xff\xff\xff\xff\x10\0\0\0" + bytes(16),
    b"PK\x05\x06" + bytes(18),
    b'{"step": 1, "train/loss": 0.5}\n',
    b'{"distsgd": {"run_key": 1, "requested": {}, "data_digest": ""}}',
    b'{"status": "FINISHED"}',
    b'{"run_id": "../../x", "experiment_id": 1, "uri": {}}',
    b"[model]\nhidden = 3\n",
)


@dataclass(frozen=True)
class Case:
    """A file, and what is in it."""

    file: str
    content: bytes


def cases() -> SearchStrategy[Case]:
    """Files of bytes."""
    start = st.sampled_from(STARTS) | odd.contents() | st.binary(max_size=300)
    content = st.builds(_damaged, start, st.lists(odd.damages(), max_size=3))
    return st.builds(Case, st.sampled_from(FILES), content)


def _damaged(data: bytes, damages: list[odd.Damage]) -> bytes:
    for damage in damages:
        data = damage.done_to(data)
    return data


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Have the file read by whoever reads it."""
    if case.file == "model.npz":
        return models.check_bytes(case.content, sandbox)
    if case.file in IN_A_RUN:
        undisturbed = rundirs.template(sandbox)
        sandbox.clean()
        stage = "finished" if case.file == "result.json" else "interrupted"
        rundirs.put(stage, undisturbed, sandbox.work / "run")
        path = rundirs.path_of(case.file, sandbox.work / "run")
        assert path is not None
        path.write_bytes(case.content)
        return rundirs.judge_resumption(sandbox, undisturbed)
    (sandbox.work / case.file).write_bytes(case.content)
    before = sandbox.files()
    arguments = [*small_run(), "given.toml"] if case.file == "given.toml" else [*small_run(), f"--data={case.file}"]
    return [*sandbox.invoke(*arguments).problems, *sandbox.left_behind(before)]


GENERATOR = Generator(cases, check, share=2)
