"""The benchmarks: their arithmetic, the table's renewal, and every contestant once, for a tiny net and a blink."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from benchmarks import report, summary
from benchmarks.contestants import (
    BOUND,
    CONTESTANTS,
    REPOSITORY,
    ContestantError,
    Settings,
    measure,
)
from benchmarks.peers.common import share_of, shuffled
from benchmarks.peers.plain_numpy import gather, initial_parameters, loss_and_gradients
from benchmarks.profile_step import SERVER_HOOKS, WORKER_HOOKS
from benchmarks.shapes import SHAPES, Shape, make_data, parse_shape
from benchmarks.stopwatch import Stopwatch, find

TINY = Shape(5, 4, 3, 2048)
"""With a large mini-batch, so that an epoch is short."""

BLINK = Settings(workers=2, threads=2, seconds=0.2, warm_up_s=0.05)

CLASSIC = parse_shape("3072-20-10")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(TINY, "float32", tmp_path_factory.mktemp("rows"))


def test_ratios_are_of_medians_and_targets_are_met_or_not():
    times = {"distsgd": [1.0, 1.1, 9.0], "ddp": [4.4, 5.0, 4.0], "torch": [2.0, 2.2, 2.1], "bound": [0.99]}
    rows = {row.contestant: row for row in summary.rows(CLASSIC, times)}
    assert rows["distsgd"].ratio == 1
    assert rows["distsgd"].met is None
    assert (rows["distsgd"].fastest_ms, rows["distsgd"].slowest_ms, rows["distsgd"].rounds) == (1.0, 9.0, 3)
    assert rows["ddp"].ratio == pytest.approx(4.0)
    assert [rows[name].met for name in ("ddp", "torch", "bound")] == [True, False, True]


def test_without_our_own_times_there_are_no_ratios():
    (row,) = summary.rows(CLASSIC, {"distsgd": [], "ddp": [4.0]})
    assert (row.contestant, row.ratio, row.met) == ("ddp", None, None)


def test_every_target_belongs_to_a_shape_and_a_contestant():
    assert set(summary.TARGETS) <= {shape.net for shape in SHAPES}
    names = {contestant.name for contestant in CONTESTANTS}
    assert all(set(targets) <= names for targets in summary.TARGETS.values())


def test_every_contestant_begins_a_round_once():
    orders = [summary.rotated("abc", number) for number in range(4)]
    assert orders == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_tables_show_ratio_and_target():
    results = {CLASSIC: summary.rows(CLASSIC, {"distsgd": [1.0], "ddp": [4.126], "bound": [0.9]})}
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report.table(results))
    drawn = console.export_text()
    assert "4.13×" in drawn
    assert "4.00×" in drawn
    facts = {"processor": "P", "cores": 2, "system": "S", "python": "3", "numpy": "2", "blas": "B"}
    lines = report.markdown(results, facts, "").splitlines()
    assert "| 3072-20-10@256 | 1 | 4.13 | 0.9 |" in lines
    assert "| 3072-20-10@256 | 4.13× (4.00×) | 90 % (85 %) |" in lines


def test_only_one_section_is_renewed(tmp_path):
    page = tmp_path / "page.md"
    (begin, end), (other, last) = report.markers(), report.markers("other")
    page.write_text(f"before\n{begin}\nold\n{end}\n{other}\nkept\n{last}\nafter\n")
    report.replace_results(page, "new")
    assert page.read_text() == f"before\n{begin}\nnew\n{end}\n{other}\nkept\n{last}\nafter\n"
    page.write_text("no section")
    with pytest.raises(ValueError, match="no section between"):
        report.replace_results(page, "new")
    assert begin in (REPOSITORY / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("text", ["3072-20", "3072-20-10@", "0-20-10", "3-2-1", "a-b-c"])
def test_a_mistyped_shape_is_refused(text):
    with pytest.raises(ValueError, match=r"D-H-C|below 1"):
        parse_shape(text)


def test_processes_share_the_rows_of_a_shuffled_epoch():
    shares = [shuffled(32, 8, 0, share_of(rank, 3, 8)) for rank in range(3)]
    epochs = [np.concatenate([next(share) for _ in range(4) for share in shares]) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(32))] * 2
    assert list(epochs[0]) != list(epochs[1])


def test_the_peers_gradients_are_those_of_distsgd(data):
    from distsgd.core.backprop import loss_and_gradient_sums
    from distsgd.core.net import Net, Parameters
    from distsgd.core.workspace import Workspace

    X, y = gather(np.load(data / "X.npy"), np.load(data / "y.npy"), np.arange(8))
    parameters = initial_parameters(TINY)
    net = Net(TINY.features, TINY.hidden, TINY.classes)
    out = net.split(np.empty(net.size, np.float32))
    sums = loss_and_gradient_sums(Parameters(*parameters), X, y, out=out, workspace=Workspace(net, 8, np))
    loss, gradients = loss_and_gradients(parameters, X, y)
    assert loss == pytest.approx(sums / 8, rel=1e-5)
    for ours, theirs in zip(out, gradients, strict=True):
        np.testing.assert_allclose(theirs, ours / 8, rtol=1e-4, atol=1e-6)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("distsgd", "sklearn", "ddp", "ray")]


@pytest.mark.parametrize("name", ["torch", *SLOW])
def test_a_contestant_measures(name, data):
    (contestant,) = (contestant for contestant in CONTESTANTS if contestant.name == name)
    if contestant.missing():
        pytest.skip(contestant.missing())
    measured = measure(contestant, TINY, data, BLINK)
    assert 0 < measured["step_ms_p50"] <= measured["step_ms_p95"]
    assert measured["samples"] > 0


def test_a_contestant_that_fails_says_why(tmp_path):
    with pytest.raises(ContestantError, match=r"(?s)bound at 5-4-3@2048 ended with exit code 1.*X\.npy"):
        measure(BOUND, TINY, tmp_path, BLINK)


@pytest.mark.slow
def test_a_comparison_writes_its_results(tmp_path):
    command = [sys.executable, "-m", "benchmarks.compare", "--shapes", str(TINY), "--only", "bound", "--rounds", "2"]
    ended = subprocess.run(
        [*command, "--seconds", "0.1", "--out", str(tmp_path)],
        cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "compare.json").read_text())
    (shape,) = written["shapes"]
    assert len(shape["measurements"]["bound"]) == len(written["loads"]) == 2
    assert written["machine"]["cores"] >= 1
    assert (tmp_path / "compare.png").stat().st_size > 1000


def test_a_stopwatch_takes_callees_off():
    watch = Stopwatch()
    inner = watch.timed(lambda: time.sleep(0.05), "inner")
    outer = watch.timed(lambda: [inner(), inner()], "outer")
    outer()
    assert watch.seconds["inner"] >= 0.1
    assert watch.seconds["outer"] < watch.seconds["inner"] / 2


def test_a_stopwatch_times_its_own_thread_alone():
    watch = Stopwatch()
    thread = threading.Thread(target=watch.timed(lambda: None, "elsewhere"))
    thread.start()
    thread.join()
    assert not watch.seconds


def test_a_function_that_is_gone_is_named():
    with pytest.raises(LookupError, match=r"no distsgd\.engine\.worker:Worker\.gone to time"):
        find("distsgd.engine.worker:Worker.gone")


@pytest.mark.parametrize("hook", [*WORKER_HOOKS, *SERVER_HOOKS])
def test_what_the_profile_times_exists(hook):
    owner, name = find(hook)
    assert callable(getattr(owner, name))


@pytest.mark.slow
@pytest.mark.parametrize(("arithmetic", "phase"), [("fast", "add shards"), ("portable", "round features")])
def test_a_profile_of_a_step_accounts_for_it(arithmetic, phase, tmp_path):
    command = [sys.executable, "-m", "benchmarks.profile_step", "--shape", str(TINY), "--seconds", "0.2"]
    command += ["--arithmetic", arithmetic]
    environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "120"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert all(word in ended.stdout for word in ("gather", "backward", "wait", "reduce", "publish", "worker 1", phase))
