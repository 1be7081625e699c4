"""Odd tables are loaded or refused in one line; `python -m tests.hostile --only tables` tries any number of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hostile import tables
from hypothesis import HealthCheck, given, settings

SECONDS = 10.0


@pytest.mark.timeout(120)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables.cases())
def test_an_odd_table_is_loaded_or_refused_in_one_line(case):
    with tempfile.TemporaryDirectory() as folder:
        config = tables.written(case, Path(folder))
        if config is None:
            return
        start = time.monotonic()
        assert tables.fault(config) is None
        assert time.monotonic() - start < SECONDS
