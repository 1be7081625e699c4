"""Odd configurations: `--set` texts, options and TOML files: wrong types, huge numbers, unknown keys, odd texts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import distsgd
from hostile import odd
from hostile.generator import Generator, small_run
from hostile.sandbox import Problem, Sandbox

KEYS = sorted(distsgd.Config().flat())

MISSPELT = (
    "model",
    "hidden",
    "lr",
    "optim.rate",
    "optim.lr.x",
    "modell.hidden",
    "",
    ".",
    "..",
    "model.",
    ".hidden",
    "a.b.c.d",
    "__class__",
    "model.__init__",
    "Model.Hidden",
    "optim lr",
    "ключ.имя",
)

HEAVY = (
    "train.max_steps",
    "train.epochs",
    "run.workers",
    "run.address",
    "model.hidden",
    "tracking.enabled",
    "train.num_shards",
)
"""Keys of which some allowed values make a run that takes long, or one on Ray: these get none but wrong values."""

WRONG = (
    "''",
    "-1",
    "-9223372036854775809",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1.5",
    "[1]",
    "{}",
    "1979-05-27",
    "x",
    "[" * 3000,
    "-" + "9" * 5000,
    "maybe",
    "{a.b = 1}",
    "0x",
    "'\\u0000'",
)

OPTIONS = ("--data", "--val", "--device", "--run-dir")


@dataclass(frozen=True)
class Case:
    """What is given beside the arguments of a small run."""

    arguments: tuple[str, ...]
    toml: bytes | None


def _value(key: str) -> SearchStrategy[str]:
    if key == "run.dir":  # paths are another generator's
        return st.sampled_from(["1", "true", "[]", "'run'", "nan"])
    if key == "data.train":
        return odd.toml_values().filter(lambda text: "digits" not in text)
    return st.sampled_from(WRONG) if key in HEAVY else odd.toml_values()


def assignments() -> SearchStrategy[tuple[str, str]]:
    """Keys and the texts of their values."""
    known = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), _value(key)))
    other = st.tuples(st.sampled_from(MISSPELT) | odd.texts(), odd.toml_values())
    misspelt = st.builds(
        lambda pair, where, text: (pair[0][:where] + text + pair[0][where:], pair[1]),
        known,
        st.integers(0, 12),
        st.sampled_from(["", "_", " ", ".", "x", "\u200b"]),
    )
    return st.one_of(known, known, known, misspelt, other).filter(
        lambda pair: pair[0].strip() not in HEAVY or pair[1] in WRONG
    )


def _toml(pairs: list[tuple[str, str]], as_tables: bool) -> bytes:
    lines = []
    for key, value in pairs:
        section, _, name = key.partition(".")
        lines.append(f"[{section}]\n{name} = {value}" if as_tables else f"{key} = {value}")
    return "\n".join(lines).encode(errors="surrogateescape")


def files() -> SearchStrategy[bytes]:
    """TOML files, most of them wrong, some of them not even TOML."""
    written = st.builds(_toml, st.lists(assignments(), max_size=4), st.booleans())
    damaged = st.builds(lambda data, damage: damage.done_to(data), written, odd.damages())
    return st.one_of(written, damaged, odd.contents())


def cases() -> SearchStrategy[Case]:
    """Configurations."""
    given = assignments().map(lambda pair: f"--set={pair[0]}={pair[1]}")
    loose = odd.texts().map(lambda text: f"--set={text}")
    option = st.builds(lambda name, text: f"{name}={text}", st.sampled_from(OPTIONS[:3]), odd.texts())
    arguments = st.lists(st.one_of(given, given, given, loose, option), max_size=3).map(tuple)
    return st.builds(Case, arguments, st.none() | files())


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Train with the configuration: a moment if it is allowed, else one sentence."""
    before = sandbox.files()
    arguments = [*small_run(), *case.arguments]
    if case.toml is not None:
        (sandbox.work / "given.toml").write_bytes(case.toml)
        before = sandbox.files()
        arguments.append("given.toml")
    ending = sandbox.invoke(*arguments)
    problems = [*ending.problems, *sandbox.left_behind(before)]
    if ending.code == 2 and sandbox.files() - before:
        problems.append(Problem("leftover", f"refused, and there are {sorted(map(str, sandbox.files() - before))}"))
    return problems


GENERATOR = Generator(cases, check, share=3)
