"""The parts of tracking that need no store: URIs, the learning curve, one-line errors."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distsgd.config import Config, TrackingConfig
from distsgd.errors import ConfigError
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.figure import learning_curve, ticks
from distsgd.tracking.tracker import describe


def test_the_uri_comes_from_the_configuration_then_the_environment_then_the_default(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri.resolve(TrackingConfig()) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri.resolve(TrackingConfig()) == "http://host:5000"
    assert tracking_uri.resolve(TrackingConfig(uri="sqlite:///a.db")) == "sqlite:///a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri.resolve(TrackingConfig()) == "sqlite:///mlflow.db"


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://u:p@h/db", "mysql://h/db", "https://h", "databricks"])
def test_other_stores_of_mlflow_pass(uri):
    assert tracking_uri.resolve(TrackingConfig(uri=uri)) == uri


def test_how_to_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    look = tracking_uri.how_to_look
    assert look("http://h:5000/", "3", "abc") == "http://h:5000/#/experiments/3/runs/abc"
    assert look("http://me:pw@h:5000", "3", "abc") == "http://me:***@h:5000/#/experiments/3/runs/abc"
    assert look(f"sqlite:///{tmp_path}/a b.db", "3", "abc") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    assert look("sqlite:////else/x.db", "3", "abc") == "mlflow ui --backend-store-uri sqlite:////else/x.db"
    assert look("postgresql://u:pw@h/db", "3", "abc") == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'


def test_a_relative_sqlite_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri.absolute("sqlite:///x/m.db") == f"sqlite:///{tmp_path}/x/m.db"
    assert tracking_uri.absolute("sqlite:////x/m.db") == "sqlite:////x/m.db"
    assert tracking_uri.sqlite_path("sqlite:////x/m.db") == Path("/x/m.db")
    assert tracking_uri.absolute("http://h") == "http://h"


def test_required_and_not_enabled_do_not_go_together():
    with pytest.raises(ConfigError, match=r"tracking.required is true and tracking.enabled is false"):
        Config.build({"tracking.required": True, "tracking.enabled": False})


def test_an_errors_root_is_described_in_one_line():
    def raised(form):
        try:
            form()
        except Exception as error:
            return describe(error)

    def chained():
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise RuntimeError("a\nlong\nstory") from error

    def suppressed():
        try:
            raise OSError("detail")
        except OSError:
            raise RuntimeError("what counts\nand more") from None

    assert raised(chained) == "[Errno 111] Connection refused (ConnectionRefusedError)"
    assert raised(suppressed) == "what counts (RuntimeError)"
    assert describe(TimeoutError()) == "(TimeoutError)"


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60),
    st.lists(st.sampled_from(["train/loss", "val/loss", "val/accuracy"]), min_size=1, unique=True),
)
def test_the_learning_curve_is_well_formed_and_inside_the_picture(values, keys):
    records = [{"step": i, "epoch": i / 7, **dict.fromkeys(keys, value)} for i, value in enumerate(values)]
    root = xml.etree.ElementTree.fromstring(learning_curve(records))
    width, height = float(root.get("width")), float(root.get("height"))
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(keys)
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert len(points) == len(values)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_a_long_curve_is_thinned_and_keeps_its_end():
    records = [{"step": i, "epoch": float(i), "train/loss": float(i)} for i in range(5432)]
    root = xml.etree.ElementTree.fromstring(learning_curve(records))
    (line,) = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    points = line.get("points").split()
    assert 500 < len(points) <= 1001
    assert points[-1] == f"{max(float(p.split(',')[0]) for p in points):.1f},{points[-1].split(',')[1]}"


def test_a_curve_without_points_is_an_empty_picture():
    xml.etree.ElementTree.fromstring(learning_curve([]))


@example(0.0, 5e-324)
@example(5e-324, 0.0)
@example(900719926.1015625, 1.192092896e-07)
@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_are_round_few_and_around_the_values(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 8
    assert found == sorted(found)
    margin = 1e-6 * max(abs(low), span, 1e-300)
    assert found[0] <= low + margin
    assert found[-1] >= low + span - margin


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:secret@host:5432/db", "postgresql+psycopg2://me:***@host:5432/db"),
        ("mysql://me:p/s#s?@host/db", "mysql://me:***@host/db"),
        ("postgresql://me:[secret@host/db", "postgresql://me:***@host/db"),
        ("https://me:secret@host/path", "https://me:***@host/path"),
        ("http://127.0.0.1:5000/#/a@b", "http://127.0.0.1:5000/#/a@b"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_a_password_is_never_shown(uri, shown):
    assert tracking_uri.redacted(uri) == shown
    assert tracking_uri.holds_password(uri) == (uri != shown)
