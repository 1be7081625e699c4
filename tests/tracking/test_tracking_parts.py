"""The parts of tracking that need no store: URIs, the learning curve, one-line errors."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distsgd.config import Config, TrackingConfig
from distsgd.errors import ConfigError
from distsgd.rundir.figure import draw_curves, draw_learning_curve
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.failures import reason
from distsgd.tracking.run_id import RunId


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


def test_how_to_view_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ending = "?workflowType=machine_learning"

    def view(uri: str, folder: str = "runs/a b") -> str:
        return tracking_uri.view_command(RunId("abc", "3", uri), Path(folder))

    assert view("http://h:5000/") == f"http://h:5000/#/experiments/3/runs/abc{ending}"
    assert view("http://me:pw@h:5000") == f"http://***@h:5000/#/experiments/3/runs/abc{ending}"
    assert view("sqlite:///m.db") == "distsgd ui 'runs/a b'"
    assert view("sqlite:///m.db", f"{tmp_path}/x") == "distsgd ui x"
    assert view("postgresql://u:pw@h/db", "/else/x") == "distsgd ui /else/x"
    assert (
        tracking_uri.table_link("http://h", "3") == f"http://h/#/experiments/3/runs{ending}&viewStateShareKey=distsgd"
    )


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
            return reason(error, "http://h")

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
    assert reason(TimeoutError(), "http://h") == "(TimeoutError)"


SVG = "{http://www.w3.org/2000/svg}"


def drawn(records: list[dict[str, float]], path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each curve in the picture, in its own units; AssertionError if any is outside of it."""
    draw_learning_curve(records, path)
    root = xml.etree.ElementTree.parse(path).getroot()
    _, _, width, height = map(float, root.get("viewBox").split())
    curves = {}
    for key in ("train/loss", "val/loss", "val/accuracy"):
        for group in root.findall(f".//{SVG}g[@id='{key}']"):
            steps = group.find(f"{SVG}path").get("d").split()
            numbers = [float(word) for word in steps if word not in "MLz"]
            curves[key] = list(zip(numbers[::2], numbers[1::2], strict=True))
            assert all(0 <= x <= width and 0 <= y <= height for x, y in curves[key])
    return curves


@settings(max_examples=25)
@example([0.0, 5e-324], ["train/loss"])
@example([900719926.1015625, 900719926.1015626], ["train/loss"])
@example([0.5, 1.7e308], ["train/loss"])
@given(
    st.lists(st.floats(0, 1e12), min_size=2, max_size=60),
    st.lists(st.sampled_from(["train/loss", "val/loss", "val/accuracy"]), min_size=1, unique=True),
)
def test_the_learning_curve_has_a_line_for_each_series_inside_the_picture(tmp_path_factory, values, keys):
    records = [{"step": i, "epoch": i / 7, **dict.fromkeys(keys, value)} for i, value in enumerate(values)]
    curves = drawn(records, tmp_path_factory.mktemp("figure") / "curve.svg")
    assert curves.keys() == set(keys)
    for points in curves.values():
        assert points[0][0] < points[-1][0]


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.2], [5e-324, 0.0], [1e-9, 1.7e308]])
def test_the_small_picture_has_both_curves_and_a_fixed_size(tmp_path, values):
    records = [{"step": i, "epoch": i, "val/loss": value, "val/accuracy": 0.5} for i, value in enumerate(values)]
    draw_curves(records, tmp_path / "curves.svg")
    root = xml.etree.ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert (root.get("width"), root.get("height")) == ("192pt", "63pt")  # 256 by 84 pixels
    assert all(root.findall(f".//{SVG}g[@id='{key}']") for key in ("val/loss", "val/accuracy"))


def test_a_lower_loss_is_drawn_lower_and_a_higher_accuracy_higher(tmp_path):
    records = [{"step": i, "epoch": float(i), "train/loss": 1 / (1 + i), "val/accuracy": i / 9} for i in range(1, 9)]
    curves = drawn(records, tmp_path / "curve.svg")
    heights = {key: [-y for _, y in points] for key, points in curves.items()}  # y points down
    assert heights["train/loss"] == sorted(heights["train/loss"], reverse=True)
    assert heights["val/accuracy"] == sorted(heights["val/accuracy"])


def test_the_picture_of_a_long_run_stays_small(tmp_path):
    records = [{"step": i, "epoch": i / 100, "train/loss": (i * 7919 % 1000) / 1000} for i in range(100_000)]
    drawn(records, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size < 500_000


def test_a_run_without_points_gives_an_empty_picture(tmp_path):
    assert drawn([], tmp_path / "curve.svg") == {}


def test_a_database_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    from distsgd.tracking import store

    def killed_meanwhile(uri):
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half of the tables")
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "MlflowClient", killed_meanwhile)
    with pytest.raises(KeyboardInterrupt):
        store.Store(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.iterdir())

    def made_by_another_meanwhile(uri):
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"ours")
        (tmp_path / "mlflow.db").write_bytes(b"theirs")

    monkeypatch.setattr(store, "MlflowClient", made_by_another_meanwhile)
    store.create_database(tmp_path / "mlflow.db")
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]
    assert (tmp_path / "mlflow.db").read_bytes() == b"theirs"
