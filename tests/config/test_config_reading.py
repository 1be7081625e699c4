"""Where configurations come from: `--set KEY=VALUE` and TOML files, and what of it is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import Config, parse_assignments, read_toml
from distsgd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr=0.5", {"optim.lr": 0.5}),
        (" optim.lr = 1e-3 ", {"optim.lr": 1e-3}),
        ("model.hidden=7", {"model.hidden": 7}),
        ("optim.nesterov=true", {"optim.nesterov": True}),
        ("data.train=rows/*.parquet", {"data.train": "rows/*.parquet"}),
        ("data.train=a=b", {"data.train": "a=b"}),
        ('data.label="7"', {"data.label": "7"}),
        ('data.features=["a", "b"]', {"data.features": ["a", "b"]}),
        ("optim.schedule=cosine", {"optim.schedule": "cosine"}),
        ("data.label=", {"data.label": ""}),
        ("optim.lr=nan", {"optim.lr": pytest.approx(float("nan"), nan_ok=True)}),
    ],
)
def test_assignments_are_toml_or_text(text, expected):
    assert parse_assignments([text]) == expected


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 3000], ids=["5,000 digits", "3,000 brackets"])
def test_an_assignment_that_no_toml_reader_takes_is_text_and_refused_for_a_number(value):
    assert parse_assignments([f"optim.lr={value}"]) == {"optim.lr": value}
    with pytest.raises(ConfigError, match=r"optim\.lr is .*input should be a"):
        Config.build(parse_assignments([f"optim.lr={value}"]))


def test_the_last_assignment_of_a_key_wins():
    assert parse_assignments(["optim.lr=1", "model.hidden=2", "optim.lr=3"]) == {"optim.lr": 3, "model.hidden": 2}


@pytest.mark.parametrize("text", ["optim.lr", "=3", " =3", "", "optim.lr:3"])
def test_an_assignment_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match=r"--set takes KEY=VALUE") as caught:
        parse_assignments([text])
    assert repr(text) in str(caught.value)


@given(st.text(max_size=30))
def test_no_assignment_ends_in_another_error(text):
    with contextlib.suppress(ConfigError):
        Config.build(parse_assignments([text]))


def test_a_toml_file_is_read_with_its_sections(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[optim]\nlr = 0.5\n[data]\ntrain = "x"\nfeatures = ["a"]\n[model]\n')
    config = Config.build(read_toml(path))
    assert (config.optim.lr, config.data.train, config.data.features) == (0.5, "x", ("a",))


@pytest.mark.parametrize(
    "content",
    [
        *(b"optim.lr = ", b"[optim\nlr = 1", b"lr = 1\nlr = 2", b"\xff\xfe", b"PAR1\x00\x01", b"lr: 0.1"),
        *(b"lr = " + b"1" * 5000, b"lr = " + b"[" * 3000),
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path, content):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as TOML") as caught:
        read_toml(path)
    assert repr(str(path)) in str(caught.value)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="does not exist") as caught:
        read_toml(tmp_path / "no.toml")
    assert "no.toml" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_toml(tmp_path)
