"""The configuration: what is refused and how, layers, digest and parameter names."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd import train
from distsgd.config import Config, flatten, known_keys, read_toml
from distsgd.config.keys import keys
from distsgd.errors import ConfigError, RefusedError

OTHER_VALUES = {
    "model.hidden": 65,
    "model.activation": "gelu",
    "model.loss": "hinge",
    "model.scale": 0.01,
    "optim.rule": "adam",
    "optim.lr": 0.2,
    "optim.l2": 0.5,
    "optim.momentum": 0.9,
    "optim.nesterov": True,
    "optim.beta1": 0.8,
    "optim.beta2": 0.9,
    "optim.epsilon": 1e-6,
    "optim.weight_decay": 0.1,
    "optim.clip_norm": 1.0,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 5,
    "optim.decay_every": 3.0,
    "optim.decay_factor": 0.1,
    "optim.final_lr": 0.01,
    "train.batch_size": 128,
    "train.num_shards": 8,
    "train.arithmetic": "portable",
    "train.epochs": 2,
    "train.max_steps": 7,
    "train.seed": 1,
    "train.label_smoothing": 0.1,
    "train.class_weight": "balanced",
    "train.sampling": "replacement",
    "train.on_nonfinite": "skip",
    "train.log_every": 1,
    "train.eval_every": 2,
    "train.early_stopping": 3,
    "train.stopping_metric": "accuracy",
    "train.min_gain": 0.01,
    "data.train": "rows.parquet",
    "data.val": "val.parquet",
    "data.val_fraction": 0.5,
    "data.split_seed": 2,
    "data.label": "y",
    "data.weight": "w",
    "data.features": ["a", "b"],
    "data.exclude": ["c", "d"],
    "data.categorical": "hash",
    "data.max_categories": 7,
    "data.missing": "mean",
    "data.normalize": "unit",
    "data.classes": 10,
    "data.csv_separator": ";",
    "data.csv_decimal": ",",
    "data.csv_header": False,
    "data.csv_encoding": "cp1252",
    "data.csv_null": ["?"],
    "run.workers": 2,
    "run.threads": 2,
    "run.device": "cpu",
    "run.gpus_per_worker": 0.5,
    "run.blas_threads": 2,
    "run.blas_kernel": "Haswell",
    "run.address": "auto",
    "run.name": "mine",
    "run.dir": "here",
    "run.timeout_s": 5.0,
    "run.link": "ray",
    "run.ports": "30000-30010",
    "run.max_restarts": 1,
    "run.min_workers": 2,
    "tracking.enabled": False,
    "tracking.uri": "sqlite:///x.db",
    "tracking.link_uri": "https://mlflow.example.org/base",
    "tracking.experiment": "x",
    "tracking.parent": "sweep",
    "tracking.timeout_s": 5.0,
    "tracking.required": True,
    "tracking.system_metrics": True,
    "checkpoint.every_s": 5.0,
    "checkpoint.keep": 1,
}
"""A valid value other than the default for every key."""

NEEDED = {
    "optim.beta1": {"optim.rule": "adam"},
    "optim.beta2": {"optim.rule": "rmsprop"},
    "optim.epsilon": {"optim.rule": "adagrad"},
}
"""What has to be set for a key to have an effect; it is refused otherwise."""


def refused(*layers) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.build(*layers)
    assert isinstance(caught.value, RefusedError)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_key_has_another_value_here():
    assert tuple(OTHER_VALUES) == known_keys()
    defaults = Config().flat()
    assert all(defaults[key] != value for key, value in OTHER_VALUES.items())


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.lerning_rate", None),
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
        ("train.lr", "optim.lr"),
        ("optim.batch_size", "train.batch_size"),
        ("model.hiden", "model.hidden"),
        ("hiden", "model.hidden"),
        ("train.batchsize", "train.batch_size"),
        ("train.num_shard", "train.num_shards"),
        ("data.lable", "data.label"),
        ("tracking.url", "tracking.uri"),
        ("run.worker", "run.workers"),
        ("modle.hidden", "model.hidden"),
        ("checkpoint.evry_s", "checkpoint.every_s"),
        ("xyzzy", None),
        ("model.hidden.units", "model.hidden"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, nearest):
    message = refused({key: 1})
    assert f"unknown configuration key {key!r}" in message
    if nearest is not None:
        assert message.endswith(f"(did you mean {nearest!r}?)")
    nested = key.split(".")
    layer = 1
    for part in reversed(nested):
        layer = {part: layer}
    assert refused(layer) == message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optim.lr", 0, "greater than 0"),
        ("optim.lr", -0.1, "greater than 0"),
        ("optim.lr", float("nan"), "finite"),
        ("optim.lr", float("inf"), "finite"),
        ("optim.lr", "fast", "valid number"),
        ("optim.lr", None, "valid number"),
        ("optim.lr", [0.1], "valid number"),
        ("optim.lr", True, "not be true or false"),
        ("optim.l2", -1e-9, "greater than or equal to 0"),
        ("optim.momentum", 1, "less than 1"),
        ("optim.momentum", -0.1, "greater than or equal to 0"),
        ("optim.decay_factor", 1.5, "less than or equal to 1"),
        ("optim.schedule", "cosin", "'constant', 'step'"),
        ("optim.nesterov", "perhaps", "valid boolean"),
        ("optim.clip_norm", 0, "greater than 0"),
        ("model.hidden", -1, "greater than or equal to 0"),
        ("model.hidden", 1.5, "valid integer"),
        ("model.hidden", 10**30, "less than or equal to"),
        ("model.hidden", False, "not be true or false"),
        ("model.scale", 0, "greater than 0"),
        ("train.epochs", -1, "greater than or equal to 0"),
        ("train.epochs", "ten", "valid integer"),
        ("train.max_steps", -1, "greater than or equal to 0"),
        ("train.seed", -1, "greater than or equal to 0"),
        ("train.seed", 2**63, "less than 9223372036854775808"),
        ("train.sampling", "none", "'shuffle' or 'replacement'"),
        ("data.train", 3, "valid string"),
        ("data.val_fraction", 1, "less than 1"),
        ("data.features", [], "at least 1"),
        ("train.class_weight", "none", "expected 'balanced', a table such as {spam = 2.5}, or {} for no weights"),
        ("train.class_weight", 2, "expected 'balanced', a table such as {spam = 2.5}, or {} for no weights"),
        ("data.features", ["a", 3], "valid string"),
        ("data.classes", 1, "greater than or equal to 2"),
        ("run.workers", -1, "'auto' or a number of at least 0"),
        ("run.workers", "many", "'auto'"),
        ("run.device", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("checkpoint.keep", 0, "greater than or equal to 1"),
        ("run.timeout_s", 3e6, "less than or equal to 604800"),
        ("run.timeout_s", 1e300, "less than or equal to 604800"),
        ("run.timeout_s", 0, "greater than 0, or input should be 'auto'"),
        ("run.timeout_s", "soon", "valid number, unable to parse string as a number, or input should be 'auto'"),
        ("tracking.timeout_s", 1e300, "less than or equal to 604800"),
        ("optim.decay_every", 5e-324, "greater than or equal to 0.000001"),
        ("train.epochs", 2**63, "less than 9223372036854775808"),
        ("optim.warmup_steps", 10**98, "less than 9223372036854775808"),
        ("data.label", 0, """put it in quotes, "0" (in a shell: --set 'data.label="0"')"""),
        ("data.label", 0.5, """put it in quotes, "0.5" (in a shell: --set 'data.label="0.5"')"""),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_expectation(key, value, expected):
    message = refused({key: value})
    found = value[-1] if value == ["a", 3] else value
    assert message.startswith(f"{key} is {found!r}: ")
    assert expected in message
    assert message.count(f"{key} is") == 1


NESTED: Any = functools.reduce(lambda inner, _: [inner], range(200_000), 1)
NESTED_TABLE: Any = functools.reduce(lambda inner, _: {"a": inner}, range(5000), 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optim.warmup_steps": 10**400}, "optim.warmup_steps is 1000"),
        ({"optim.warmup_steps": 10**5000}, "optim.warmup_steps is of type int and too large to print"),
        ({"optim.lr": 10**400}, "optim.lr is 1000"),
        ({"optim.lr": "1" * 5000}, "optim.lr is '1111"),
        ({"optim.lr": NESTED}, "optim.lr is of type list and too large to print"),
        ({"model": NESTED}, "model is of type list and too large to print: it is a section"),
        (NESTED_TABLE, "nested too deeply"),
        ({"x" * 5000: 1}, "unknown configuration key 'xxx"),
    ],
)
def test_huge_values_are_refused_in_a_short_sentence(values, words):
    message = refused(values)
    assert words in message
    assert len(message) < 250


def test_several_wrong_values_are_named_together():
    message = refused({"optim.lr": 0, "train.epochs": -1})
    assert "optim.lr is 0" in message
    assert "train.epochs is -1" in message


@pytest.mark.parametrize("value", [3, "wide", [1], True])
def test_a_value_in_place_of_a_section_is_refused(value):
    assert refused({"model": value}) == f"model is {value!r}: it is a section, and takes a table of keys"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"train.batch_size": 3, "train.num_shards": 4},
            ["train.batch_size is 3", "train.num_shards, 4", "raise batch_size"],
        ),
        (
            {"run.workers": 5, "train.num_shards": 4},
            ["run.workers is 5", "train.num_shards, 4", "run.workers=4, or train.num_shards=5"],
        ),
        ({"data.val": "v", "data.val_fraction": 0.1}, ["data.val and data.val_fraction are both set", "keep one"]),
        ({"data.val": "v", "data.val_fraction": 0}, ["data.val and data.val_fraction are both set"]),
        ({"run.workers": 0, "run.device": "cuda"}, ["run.workers is 0", "run.device is 'cuda'"]),
        ({"tracking.required": True, "tracking.enabled": False}, ["tracking.required", "tracking.enabled"]),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, words):
    message = refused(values)
    for word in words:
        assert word in message


def test_values_at_the_edge_of_going_together_are_taken():
    config = Config.build({"train.batch_size": 4, "train.num_shards": 4, "run.workers": 4})
    assert config.run.workers == 4
    assert Config.build({"data.val": "v"}).data.val_fraction is None
    assert Config.build({"data.val_fraction": 0}).data.val_fraction == 0


def test_texts_from_the_command_line_become_what_the_key_takes():
    config = Config.build({"run.workers": "2", "optim.lr": "0.5", "optim.nesterov": "true", "data.features": "a"})
    assert config.run.workers == 2
    assert config.optim.lr == 0.5
    assert config.optim.nesterov is True
    assert config.data.features == ("a",)
    assert Config.build({"data.features": "a, b,c"}).data.features == ("a", "b", "c")
    assert Config.build({"data.features": ["a, b"]}).data.features == ("a, b",)
    assert Config.build({"run.workers": "auto"}).run.workers == "auto"


def test_later_layers_win_key_by_key_nested_or_dotted():
    config = Config.build(
        {"optim": {"lr": 0.5, "momentum": 0.9}, "model": {"hidden": 3}}, {"optim.lr": 0.25}, {"model": {"hidden": 4}}
    )
    assert (config.optim.lr, config.optim.momentum, config.model.hidden) == (0.25, 0.9, 4)


def test_a_configuration_is_frozen():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0
    assert config.optim.lr == 0.1


def test_with_values_leaves_the_rest_and_validates():
    config = Config.build({"optim.lr": 0.5})
    changed = config.with_values({"train.epochs": 3})
    assert changed.flat() == config.flat() | {"train.epochs": 3}
    with pytest.raises(ConfigError, match=r"optim\.lr is 0"):
        config.with_values({"optim.lr": 0})


def test_explicit_is_what_was_given_even_if_it_is_the_default():
    config = Config.build({"optim.lr": 0.1, "data": {"features": ["a"]}})
    assert config.explicit() == {"optim.lr": 0.1, "data.features": ["a"]}
    assert Config().explicit() == {}


@pytest.mark.parametrize("key", known_keys())
def test_flat_values_are_json_and_build_the_same_configuration(key):
    config = Config.build({key: OTHER_VALUES[key]}, {"train.batch_size": 128}, NEEDED.get(key, {}))
    again = Config.build(json.loads(json.dumps(config.flat(), allow_nan=False)))
    assert again == config
    assert again.digest() == config.digest()
    assert config.flat()[key] == OTHER_VALUES[key]


@pytest.mark.parametrize("key", known_keys())
def test_the_digest_depends_on_exactly_what_the_weights_depend_on(key):
    """But not on the paths of the data, whose content has its own digest."""
    base = {"train.batch_size": 64} | NEEDED.get(key, {})
    changed = Config.build(base, {key: OTHER_VALUES[key]}).digest() != Config.build(base).digest()
    assert changed == (
        key.startswith(("model.", "optim.", "train.", "data.")) and key not in ("data.train", "data.val")
    )


def test_parameters_are_logged_by_their_dotted_keys():
    config = Config.build({"optim.lr": 0.3, "run.workers": 2, "data.features": ["a"], "run.dir": "here"})
    parameters = config.parameters()
    assert parameters["optim.lr"] == 0.3
    assert parameters["run.workers"] == 2
    assert parameters["data.features"] == ["a"]
    apart = ("run.dir", "run.name", "tracking.", "checkpoint.")  # another one in every run; not part of the experiment
    assert list(parameters) == [key for key in known_keys() if not key.startswith(apart)]


def test_every_key_is_explained_in_a_sentence():
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert section.__doc__.endswith("."), name
    assert [key.name for key in keys()] == list(known_keys())
    for key in keys():
        assert key.meaning[0].isupper() or key.meaning[0] == "`", key.name
        assert re.search(r"[.`]$", key.meaning), key.name


@given(
    st.dictionaries(
        st.sampled_from(known_keys()), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
    )
)
def test_no_value_ends_in_another_error_and_what_is_taken_is_json(values):
    with contextlib.suppress(ConfigError):
        config = Config.build(values)
        assert Config.build(json.loads(json.dumps(config.flat(), allow_nan=False))) == config


def test_flatten_folds_nested_mappings():
    assert flatten({"a": {"b": {"c": 1}}, "d.e": [2], "f": {}}) == {"a.b.c": 1, "d.e": [2]}


@pytest.mark.parametrize("given", ["rows.csv", 5, [("optim.lr", 1)]])
def test_train_takes_mappings(given):
    with pytest.raises(ConfigError, match=r"takes a mapping of keys, such as .* found a"):
        train(given)


def test_a_data_file_in_place_of_a_configuration_is_recognised(tmp_path):
    for name, content in (("rows.csv", b"a,b,label\n1,2,0\n"), ("rows.parquet", b"PAR1\xff\xfe\x00")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"if it holds rows, write --data '\S*{name}'"):
            read_toml(path)
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError) as error:
        read_toml(tmp_path / "bad.toml")
    assert "--data" not in str(error.value)


def test_paths_are_texts():
    config = Config.build({"data.train": Path("a/b.csv"), "data": {"val": Path("v.csv")}, "run.dir": Path("runs/x")})
    assert (config.data.train, config.data.val, config.run.dir) == ("a/b.csv", "v.csv", "runs/x")
    assert config == Config.build(json.loads(json.dumps(config.flat())))
    assert "optim.lr is " in refused({"optim.lr": Path("x")})


def test_a_uri_in_the_place_of_a_key_is_hidden_whole():
    with pytest.raises(ConfigError) as raised:
        Config.build({"tracking.uri:sqlite://me:s3cret": "more@host"})
    assert "s3cret" not in str(raised.value)
    assert "'tracking.uri:***'" in str(raised.value)


@pytest.mark.parametrize(("timeout_s", "reply_timeout_s"), [("auto", 60.0), (5, 5.0), (600, 600.0)])
def test_replies_outside_of_steps_have_a_minute_or_as_long_as_is_set(timeout_s, reply_timeout_s):
    assert Config.build({"run.timeout_s": timeout_s}).run.reply_timeout_s == reply_timeout_s


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (None, range(0)),
        ("30000", range(30000, 30001)),
        (30000, range(30000, 30001)),
        ("30000-30010", range(30000, 30011)),
    ],
)
def test_ports_are_one_or_a_range(ports, expected):
    assert Config.build({"run.ports": ports}).run.port_range == expected


@pytest.mark.parametrize("ports", ["", "0", 0, -1, "65536", "100000", "30010-30000", "30000-", "1-2-3", "any"])
def test_what_are_no_ports_is_refused(ports):
    with pytest.raises(ConfigError, match="a port or a range of ports such as '30000-30010', from 1 to 65535"):
        Config.build({"run.ports": ports})


@pytest.mark.parametrize("encoding", ["idna", "undefined", "punycode"])
def test_encodings_that_are_none_of_a_files_text_are_refused(encoding):
    with pytest.raises(ConfigError, match="an encoding that Python knows"):
        Config.build({"data.csv_encoding": encoding})


@pytest.mark.parametrize(
    ("rule", "lr"), [("sgd", 0.1), ("adagrad", 0.01), ("rmsprop", 0.01), ("adam", 0.001), ("adamw", 0.001)]
)
def test_the_learning_rate_that_is_not_set_suits_the_rule(rule, lr):
    config = Config.build({"optim.rule": rule})
    assert config.optim.lr == lr
    assert config.explicit() == {"optim.rule": rule}
    assert Config.build({"optim.rule": rule, "optim.lr": 0.7}).optim.lr == 0.7
    assert Config.build(config.flat()) == config


def test_a_wrong_rule_is_named_alone():
    message = refused({"optim.rule": "addam"})
    expected = "input should be 'sgd', 'adagrad', 'rmsprop', 'adam' or 'adamw' (did you mean 'adam'?)"
    assert message == f"optim.rule is 'addam': {expected}"


@pytest.mark.parametrize(
    ("values", "users"),
    [
        ({"optim.rule": "adam", "optim.momentum": 0.9}, "sgd"),
        ({"optim.rule": "rmsprop", "optim.nesterov": True}, "sgd"),
        ({"optim.beta1": 0.0}, "adam or adamw"),
        ({"optim.rule": "adagrad", "optim.beta2": 0.9}, "rmsprop or adam or adamw"),
        ({"optim.epsilon": 1e-8}, "adagrad or rmsprop or adam or adamw"),
    ],
)
def test_a_setting_that_the_rule_does_not_use_is_refused(values, users):
    message = refused(values)
    rule = values.get("optim.rule", "sgd")
    assert f"and optim.rule is {rule!r}, which does not use it" in message
    assert message.endswith(f"set optim.rule to {users}")


def test_an_activation_without_a_hidden_layer_is_refused():
    message = refused({"model.hidden": 0, "model.activation": "tanh"})
    assert "model.activation is 'tanh' and model.hidden is 0" in message
    assert Config.build({"model.hidden": 0}).model.activation == "relu"
