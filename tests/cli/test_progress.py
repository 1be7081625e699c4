"""What a run prints while it goes on: the bar at any width, plain lines, estimates, numbers in words."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from distsgd.cli.bar import Bar, stage_line
from distsgd.cli.lines import Pace, Throughput, compact, duration, epochs, measured, opening
from distsgd.cli.progress import LiveObserver, PlainObserver, QuietObserver, make_observer
from distsgd.cli.summary import summary
from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.engine.plan import Plan
from distsgd.errors import counted
from distsgd.rundir.result import Result
from distsgd.system.jobs import VARIABLE, submission_id

ROWS = 230
"""Training rows of the runs here: ten steps of 23 an epoch."""


def spec(**values: Any) -> Any:
    config = Config.build({"train.batch_size": 23, "train.epochs": 3, "run.workers": 2, "run.device": "cpu"} | values)
    data = SimpleNamespace(train=range(ROWS), val=range(1_000), source="rows.csv")
    net = Net(4, 8, 3)
    return SimpleNamespace(config=config, data=data, net=net, plan=Plan.of(config, ROWS), start=SimpleNamespace(step=0))


def record(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "train/loss": 0.5, "time/step_ms": 10, "time/samples_per_s": 2300} | more


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plain(clock, monkeypatch) -> PlainObserver:
    monkeypatch.delenv(VARIABLE, raising=False)
    return PlainObserver(clock)


BAR = Bar(step=276, total=690, epoch=12.0, epochs=30, loss=0.1234, accuracy=0.9712, rate=104_363)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (120, "epoch 12/30  ━+─+ 0:01:12  loss 0.1234  val acc 0.9712  104k samples/s  step 276/690"),
        (80, "epoch 12/30  ━+─+ 0:01:12  loss 0.1234  val acc 0.9712  104k samples/s"),
        (60, "epoch 12/30  ━+─+ 0:01:12  loss 0.1234"),
        (40, "epoch 12/30  ━+─+ 0:01:12"),
        (20, "━+─+ 0:01:12"),
        (12, "━─── 0:01:12"),
        (7, "0:01:12"),
    ],
)
def test_the_bar_drops_fields_and_keeps_its_length_and_the_remaining_time(width, expected):
    line = BAR.line(72, width)
    assert re.fullmatch(expected, line.plain), line.plain
    assert len(line.plain) <= width


def test_the_bar_fits_any_width():
    for bar in (BAR, Bar(step=0, total=0, epoch=0, epochs=0), Bar(step=10**7, total=10**9, epoch=0.01, epochs=1)):
        for width in range(1, 200):
            line = bar.line(None, width).plain
            assert len(line) <= max(width, len("-:--:--"))
            assert len(re.findall("[━─]", line)) >= min(12, width - 8)
            assert bar.line(None, width, ascii_only=True).plain == line.replace("━", "#").replace("─", "-")


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize("colour", [True, False])
def test_what_a_terminal_shows_fits_it(width, colour):
    file = io.StringIO()
    environment = {} if colour else {"NO_COLOR": "1"}
    console = Console(width=width, force_terminal=True, file=file, _environ={"TERM": "xterm"} | environment)
    observer = LiveObserver(console)
    observer.stage("reading a/rather/long/path/to/some/rows.parquet: 1,200,000 of 3,000,000 rows")
    console.print(observer)
    console.print()
    observer.started(spec(), Path("run"), nodes=1)
    observer.logged(record(10, **{"val/accuracy": 0.75}))
    observer.stage("sending the rest of the run to MLflow")
    console.print(observer)
    shown = file.getvalue()
    assert ("\x1b[32m" in shown) == colour
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= width
    assert lines[0].rstrip().startswith("⠋ reading a/rather")
    (bar,) = [line for line in lines if "━" in line]
    assert re.search("━{4,}─{8,} [-\\d]:", bar)
    assert ("epoch 1/3" in bar) == (width >= 40)


def test_a_stage_shows_how_long_it_takes():
    assert stage_line("starting Ray", 0.1).plain == "⠋ starting Ray"
    assert stage_line("starting Ray", 12.4).plain[1:] == " starting Ray (12 s)"
    assert stage_line("starting Ray", 12.4, ascii_only=True).plain.isascii()


def test_without_a_terminal_there_is_a_line_for_each_epoch(plain, clock, capsys):
    plain.started(spec(), Path("run"), nodes=1)
    for step in range(5, 31, 5):
        clock.now += 2
        plain.logged(record(step, **({"val/loss": 0.4, "val/accuracy": 0.75} if step % 10 == 0 else {})))
    rows = "230 and 1,000 held-out rows of rows.csv"
    assert capsys.readouterr().err.splitlines() == [
        f"training 4-8-3 (67 parameters) on {rows}, by 2 workers on 1 node (cpu), into run",
        "epoch 1/3  step 10/30  loss 0.5000  val loss 0.4000  val accuracy 0.7500  2,300 samples/s  0:00:08 left",
        "epoch 2/3  step 20/30  loss 0.5000  val loss 0.4000  val accuracy 0.7500  2,300 samples/s  0:00:04 left",
        "epoch 3/3  step 30/30  loss 0.5000  val loss 0.4000  val accuracy 0.7500  2,300 samples/s",
    ]


def test_and_one_a_minute_within_long_epochs(plain, clock, capsys):
    plain.started(spec(**{"train.epochs": 1}), Path("run"), nodes=1)
    for step in range(1, 11):
        clock.now += 40
        plain.logged(record(step))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/1" for n in ("0.2", "0.4", "0.6", "0.8", "1")]
    assert lines[0].endswith("0:05:20 left")


def test_many_short_epochs_have_a_line_a_second_and_one_at_the_end(plain, clock, capsys):
    plain.started(spec(**{"train.epochs": 1000}), Path("run"), nodes=1)
    for step in range(10, 10_001, 10):
        clock.now += 0.01
        plain.logged(record(step))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert 9 <= len(lines) <= 11
    assert lines[-1].startswith("epoch 1000/1000  step 10,000/10,000  ")


def test_a_stage_is_reported_when_it_takes_long(plain, clock, capsys):
    plain.stage("reading rows.csv: 0 of 50 rows")
    clock.now += 1
    plain.report_stage()
    assert capsys.readouterr().err == ""
    clock.now += 1
    plain.stage("reading rows.csv: 10 of 50 rows")
    plain.report_stage()
    clock.now += 5
    plain.report_stage()
    assert capsys.readouterr().err == "reading rows.csv: 10 of 50 rows ...\n"
    clock.now += 6
    plain.stage("reading rows.csv: 20 of 50 rows")
    plain.report_stage()
    assert capsys.readouterr().err == "reading rows.csv: 20 of 50 rows ... 13 s\n"
    plain.stage("starting Ray")
    clock.now += 2
    plain.report_stage()
    assert capsys.readouterr().err == "starting Ray ...\n"
    plain.started(spec(), Path("run"), nodes=1)
    clock.now += 100
    capsys.readouterr()
    plain.report_stage()
    assert capsys.readouterr().err == ""


def test_a_job_log_has_the_time_of_day(clock, capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, json.dumps({"metadata": {"job_submission_id": "nightly"}}))
    assert submission_id() == "nightly"
    PlainObserver(clock).note("warning: it rains")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d warning: it rains\n", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not JSON", '{"metadata": null}'])
def test_no_job_outside_of_jobs(content, monkeypatch):
    monkeypatch.setenv(VARIABLE, content)
    assert submission_id() is None


def test_quiet_prints_warnings_only(capsys):
    with make_observer(quiet=True) as observer:
        assert isinstance(observer, QuietObserver)
        observer.stage("starting Ray")
        observer.note("resuming")
        observer.note("warning: it rains")
    assert capsys.readouterr().err == "warning: it rains\n"


@pytest.mark.parametrize(("workers", "nodes", "where"), [(1, 1, "1 worker on 1 node"), (4, 2, "4 workers on 2 nodes")])
def test_numbers_have_their_plurals(workers, nodes, where):
    assert f", by {where} (cpu)," in opening(spec(**{"run.workers": workers}), Path("run"), nodes)


def test_no_worker_is_this_process():
    assert ", in this process (cpu)," in opening(spec(**{"run.workers": 0}), Path("run"), 1)


def test_the_remaining_time_comes_from_the_last_minutes():
    pace = Pace(0, 1000, 0.0)
    assert pace.left_s(1.0) is None
    pace.add(100, 10.0)
    assert pace.left_s(10.0) == pytest.approx(90)
    assert pace.left_s(15.0) == pytest.approx(85)  # it goes down between two records
    for second in range(11, 400):  # ten times slower than before
        pace.add(100 + second - 10, float(second))
    assert pace.left_s(399.0) == pytest.approx(511, abs=5)
    pace.add(1000, 400.0)
    assert pace.left_s(400.0) == 0


def test_throughput_weighs_records_by_their_steps():
    """The record at the end of an epoch may have a single step."""
    rate = Throughput(0)
    assert rate.samples_per_s() is None
    rate.add(record(10, **{"time/step_ms": 10, "time/samples_per_s": 1000}))
    rate.add(record(11, **{"time/step_ms": 900, "time/samples_per_s": 11}))
    assert rate.samples_per_s() == pytest.approx((100 + 9.9) / (0.1 + 0.9))
    rate.clear()
    assert rate.samples_per_s() is None


def test_numbers():
    assert [compact(n) for n in (0, 9.4, 950, 999.7, 27_945, 104_363, 999_600, 1_234_567, 2.5e9)] == [
        *("0", "9", "950", "1.0k", "28k", "104k", "1.0M", "1.2M", "2.5G")
    ]
    assert [measured(x) for x in (0, 0.5, 0.0873, 1.2e-5, 2e6)] == [
        "0.0000",
        "0.5000",
        "0.0873",
        "1.200e-05",
        "2.000e+06",
    ]
    assert [epochs(x) for x in (3, 30.0, 2.434, 0.5, 100)] == ["3", "30", "2.43", "0.5", "100"]
    assert [duration(s) for s in (0, 72, 3600, 100_000)] == ["0:00:00", "0:01:12", "1:00:00", "27:46:40"]
    assert [counted(n, "row") for n in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]


@pytest.mark.parametrize(
    ("steps", "epochs", "words"), [(1, 1.0, "1 step, 1 epoch, in "), (1_200, 2.5, "1,200 steps, 2.5 epochs, in ")]
)
def test_the_summary_has_plurals_too(steps, epochs, words, tmp_path):
    unknown = ["weights_sha256", "train_loss", "val_loss", "val_accuracy", "samples_per_s", "mlflow_run_id"]
    values: dict[str, Any] = dict.fromkeys([*unknown, "step_ms_p50", "step_ms_p95"])
    result = Result(status="FINISHED", steps=steps, epochs=epochs, wall_s=2.0, numerics={}, run_dir=tmp_path, **values)
    assert dict(summary(result))["trained"].startswith(words)
