"""Values that are none of a key's choices lead to the one that is meant."""

from __future__ import annotations

import typing

import pytest

from distsgd.config import Config
from distsgd.config.choices import SYNONYMS
from distsgd.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value", "choice"),
    [
        ("model.loss", "mse", "squared"),
        ("model.loss", "cross-entropy", "softmax"),
        ("model.loss", "Softmax", "softmax"),
        ("model.activation", "logistic", "sigmoid"),
        ("optim.rule", "AdamW", "adamw"),
        ("train.stopping_metric", "val/accuracy", "accuracy"),
        ("train.stopping_metric", "auc", "roc_auc"),
        ("data.normalize", "standardize", "standard"),
        ("data.categorical", "onehot", "one-hot"),
        ("run.device", "gpu", "cuda"),
        ("train.class_weight", "balance", "balanced"),
    ],
)
def test_the_choice_that_is_meant_is_named(key, value, choice):
    with pytest.raises(ConfigError, match=rf"{key} is '{value}': .*\(did you mean '{choice}'\?\)"):
        Config.build({key: value})


@pytest.mark.parametrize(("key", "value"), [("model.loss", "xyz"), ("model.loss", 3), ("run.device", None)])
def test_a_value_that_is_near_to_none_gets_no_hint(key, value):
    with pytest.raises(ConfigError) as refused:
        Config.build({key: value})
    assert "did you mean" not in str(refused.value)


def test_every_synonym_leads_to_a_choice_and_is_none_itself():
    for key, words in SYNONYMS.items():
        section, name = key.split(".")
        kind = Config.model_fields[section].annotation.model_fields[name].annotation
        choices = typing.get_args(kind)
        assert set(words.values()) <= set(choices), key
        assert not set(words) & set(choices), key
