"""`distsgd keys`: every key in words, all of them or those that a word stands for."""

from __future__ import annotations

import re

import pytest
from runs import invoke

from distsgd.config import known_keys
from distsgd.config.keys import keys


def named(output: str) -> list[str]:
    return [line.split("  ")[0] for line in output.splitlines() if not line.startswith(" ")]


def test_all_keys_are_listed_with_type_default_and_meaning():
    found = invoke("keys")
    assert found.code == 0
    assert named(found.out) == list(known_keys())
    lines = found.out.splitlines()
    start = lines.index("optim.momentum  number, ≥ 0, < 1; default: 0.0")
    assert lines[start + 1] == "    Momentum μ; 0 is plain SGD."
    assert "`" not in found.out
    assert max(map(len, lines)) <= 80


def test_every_key_has_a_meaning():
    assert all(key.meaning.endswith(".") for key in keys())
    assert all(re.fullmatch(r"unset|none|`.+`", key.default) for key in keys())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("momentum", {"optim.rule", "optim.momentum", "optim.nesterov"}),
        ("weight-decay", {"optim.weight_decay"}),
        ("checkpoint.", {"checkpoint.every_s", "checkpoint.keep"}),
        ("CUDA", {"run.device", "run.gpus_per_worker"}),
    ],
)
def test_a_word_selects(word, expected):
    assert set(named(invoke("keys", word).out)) == expected


@pytest.mark.parametrize(
    ("word", "words"), [("xyzzy", "`distsgd keys` lists all keys"), ("dropout", "there is no dropout")]
)
def test_a_word_that_selects_nothing_is_refused_with_what_to_do(word, words):
    found = invoke("keys", word)
    assert (found.code, found.out) == (2, "")
    assert f"no configuration key has {word!r} in its name or meaning" in found.err
    assert words in found.err
