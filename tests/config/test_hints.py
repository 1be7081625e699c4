"""Which key an unknown one stands for."""

from __future__ import annotations

import re

import pytest

from distsgd.config import Config, known_keys
from distsgd.config.hints import NO_KEY, SYNONYMS, hint
from distsgd.errors import ConfigError

KNOWN = known_keys()


@pytest.mark.parametrize("word", SYNONYMS)
def test_the_words_of_other_libraries_are_understood(word):
    assert SYNONYMS[word] in KNOWN
    for key in (word, f"model.{word}", word.replace("_", "-"), word.upper()):
        with pytest.raises(ConfigError, match=rf"unknown configuration key .*did you mean {SYNONYMS[word]!r}"):
            Config.build({key: 1})


@pytest.mark.parametrize("word", NO_KEY)
def test_what_cannot_be_set_is_said(word):
    for key in (word, f"train.{word}", word.replace("_", "-")):
        assert hint(key, KNOWN) == f" ({NO_KEY[word]})"
    named = set(re.findall(r"\b[a-z]+\.[a-z_0-9]+\b", NO_KEY[word]))
    assert named <= set(KNOWN)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.lerning_rate", "optim.lr"),
        ("trian.epochs", "train.epochs"),
        ("data.lables", "data.label"),
        ("tracking.timeout", "tracking.timeout_s"),
        ("timeout", "run.timeout_s"),
        ("model.hidden.units", "model.hidden"),
        ("Batch-Size", "train.batch_size"),
    ],
)
def test_a_misspelled_key_is_recognised(key, meant):
    assert hint(key, KNOWN) == f" (did you mean {meant!r}?)"


@pytest.mark.parametrize("key", ["foo", "x", "", ".", "optim.", "colour", "foo.bar", "checkpoint_dir", "run.friends"])
def test_nothing_is_suggested_if_nothing_is_near(key):
    assert hint(key, KNOWN) == "; `distsgd keys` lists all keys"
