"""Looks, on the cluster, whether a run can be started there, before it is submitted."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from distsgd.cluster.connection import joined
from distsgd.cluster.sharing import nodes_that_lack
from distsgd.config import Config
from distsgd.core.losses import LOSSES
from distsgd.data.sources import open_source
from distsgd.errors import ResourceError, RunDirectoryError, counted
from distsgd.run.lasting import check_run_directory, with_lasting_store
from distsgd.run.observer import Observer
from distsgd.run.origin import NewRun, ResumedRun
from distsgd.run.trainer import environment
from distsgd.rundir.folders import has_begun, named, writable_parent
from distsgd.system.secrets import redacted
from distsgd.tracking import uri as tracking_uri


def look(config: Config, *, sweep_begun: bool | None = None) -> Iterator[str]:
    """Yield what the submitter should know; raise RefusedError if the run would be refused.

    `sweep_begun` says of a sweep whether it has begun in the run directory; it is None for a run. A run directory that
    other nodes do not see is refused for a sweep, whose trials write on any of them. For a run it is a warning: its
    driver alone writes there, and that of a job that is submitted again is on the head, too, so it resumes.
    """
    check_run_directory(config)
    path = named(config)
    assert path is not None
    with contextlib.ExitStack() as stack:
        if sweep_begun:
            yield f"the sweep in {str(path)!r} has begun, and is resumed"
        elif sweep_begun is None and has_begun(config):
            run = ResumedRun.of(config, stack)
            config = run.config
            if not run.is_done:  # else the job itself says that nothing is left to do
                yield f"the run in {str(path)!r} has begun, and is resumed"
        else:
            NewRun.of(config)
        config = with_lasting_store(config, Observer())
        target = LOSSES[config.model.loss].target
        source = open_source(config.data.train, config.data, target=target)
        if config.data.val is not None:
            open_source(config.data.val, config.data, source, target=target)
        parent = writable_parent(path)
        cluster = stack.enter_context(joined(config, environment(config)))
        if cluster is not None:
            lacking, nodes = nodes_that_lack(parent)
            yield f"the cluster has {counted(cluster.cpus, 'CPU')} on {counted(nodes, 'node')}"
            if lacking and sweep_begun is not None:
                raise RunDirectoryError(
                    f"{str(parent)!r} is not shared with {', '.join(lacking)}, where trials of the sweep may run, and "
                    "each writes its own run directory there; name a folder on storage that all machines share "
                    "(--run-dir)"
                )
            if lacking:
                yield (
                    f"warning: {str(parent)!r} is not shared with {', '.join(lacking)}: if the head's machine is "
                    "lost, so is the run; name a folder on storage that all machines share"
                )
        if config.tracking.enabled:
            if importlib.util.find_spec("mlflow") is None:
                raise ResourceError("mlflow is not installed there; install it, or set tracking.enabled=false")
            store = tracking_uri.resolve(config.tracking)
            tracking_uri.link_uri(config.tracking, store)  # which is refused if it is no address
            yield f"MLflow store: {redacted(tracking_uri.absolute(store))}"
