"""Opening the session of a run: its journal, its checkpoints, early stopping, tracking and the hooks of its epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from distsgd.core.numerics import differing_numerics
from distsgd.engine.spec import RunSpec
from distsgd.run.checkpointing import Checkpointing
from distsgd.run.hooks import StepCheck, standard_hooks
from distsgd.run.log import RunLog
from distsgd.run.observer import Observer
from distsgd.run.outcome import writing
from distsgd.run.session import Session
from distsgd.run.stopping import EarlyStopping
from distsgd.run.trainer import Trainer
from distsgd.rundir import proof
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.journal import Journal
from distsgd.rundir.proof_writer import ProofWriter
from distsgd.system.signals import StopRequest
from distsgd.tracking import description
from distsgd.tracking.tracker import NoTracker

WARNING = "warning: "
"""How a notice about the data begins that belongs into the result; the user has seen it already."""


@contextlib.contextmanager
def opened_session(
    *,
    spec: RunSpec,
    directory: RunDirectory,
    trainer: Trainer,
    tracker: NoTracker,
    observer: Observer,
    resumed: bool,
    stop_request: StopRequest,
    check: StepCheck | None = None,
) -> Iterator[Session]:
    """Yield a session with the run's journal and checkpoints open and tracking started."""
    start = spec.start
    with contextlib.ExitStack() as stack:
        journal = Journal.open(directory.journal, resume_step=start.step if resumed else None)
        stack.enter_context(journal)
        log = RunLog(journal, spec.plan, observer, start=start.step)
        log.warnings += [text.removeprefix(WARNING) for text in spec.data.notices if text.startswith(WARNING)]
        checkpointing = Checkpointing(
            directory, spec.config.checkpoint, data_digest=spec.data.digest, start=start, log=log
        )
        stack.callback(checkpointing.close)
        written = _opened_proof(spec, directory, trainer, log)
        stack.callback(written.close)
        with writing(directory.path / description.FILE):
            directory.write_json(description.FILE, description.describe(spec, directory, tracker.uri).to_json())
        train = spec.config.train
        stopping = None
        if train.early_stopping is not None:
            # Without that at the end of a run which is now longer: an uninterrupted run does not have it.
            records = [r for r in log.records(start.step) if spec.plan.is_evaluated(r["step"])]
            stopping = EarlyStopping(train, directory, spec.data.digest, records)
        tracker.follow(directory)
        observer.started(spec, directory.path, nodes=trainer.nodes)
        yield Session(
            spec=spec,
            directory=directory,
            trainer=trainer,
            tracker=tracker,
            log=log,
            proof=written,
            checkpointing=checkpointing,
            stopping=stopping,
            stop_request=stop_request,
            check=check,
            hooks=standard_hooks(trainer, spec.plan, log, written, checkpointing, stopping),
        )


def _opened_proof(spec: RunSpec, directory: RunDirectory, trainer: Trainer, log: RunLog) -> ProofWriter:
    """Return the run's proof, with a line for the start if that is validated; warn if it cannot be continued."""
    start, data = spec.start, spec.data

    def begin() -> dict[str, Any]:
        rows = {name: blocks.to_json() for name, blocks in data.blocks.items()}
        config, digest = spec.config, data.digest
        return proof.beginning(start, config=config, data_digest=digest, rows=rows, numerics=trainer.numerics)

    written = ProofWriter.open(directory.path, directory.journal, start, begin, trainer.numerics)
    if written.problem is not None:
        log.warn(written.problem)
    before = written.numerics or trainer.numerics
    if before != trainer.numerics and spec.net.arithmetic != "portable":
        log.warn(
            f"the run goes on with other arithmetic than before ({differing_numerics(before, trainer.numerics)}): its "
            "last bits are not those of a run on one kind of machine"
        )
    if start.step > 0 and spec.plan.is_evaluated(start.step) and not log.lacks_validation(start.step):
        written.append(start)  # unless it has the line already: the run was killed before that was written
    return written
