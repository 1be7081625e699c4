"""Training that has begun: steps, journal, checkpoints and tracking, until the result is written."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distsgd.data import DataSet
from distsgd.engine.diagnosis import offending_rows
from distsgd.engine.spec import RunSpec
from distsgd.engine.state import Snapshot
from distsgd.errors import DistsgdError, NonFiniteError, ServerLostError, Stopped, TrainingError
from distsgd.rundir import checkpoint
from distsgd.rundir import directory as rundir
from distsgd.rundir.classifier import Classifier, weights_sha256
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.journal import Journal, difference
from distsgd.rundir.result import Result, Status
from distsgd.system import faults
from distsgd.system.signals import noted_stop_signals
from distsgd.tracking import description, run_id
from distsgd.tracking.tracker import NoTracker

GRACE_S = 1.5
"""Seconds that a run waits for MLflow after a signal to stop: Ray Jobs kills three seconds after its signal."""

LEAST_S = 0.5
"""Seconds that it waits in any case, if the stop itself has taken longer than that."""


class Trainer(Protocol):
    """What a session needs of a trainer: local.LocalTrainer or trainer.RayTrainer."""

    data: DataSet
    numerics: dict[str, str]

    def run(self, until: int, tick: Callable[[], None]) -> int: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def take_records(self) -> list[dict[str, Any]]: ...  # noqa: D102
    def take_notices(self) -> list[str]: ...  # noqa: D102
    def snapshot(self) -> Snapshot: ...  # noqa: D102
    def recover(self, start: Snapshot) -> None: ...  # noqa: D102
    def timings(self) -> dict[str, float]: ...  # noqa: D102
    def evaluate(self) -> dict[str, float]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Observer:
    """Is told how a run goes; this one ignores it. The command line's prints."""

    def note(self, text: str) -> None:
        """Take a sentence that the user should see."""

    def started(self, session: Session) -> None:
        """Training begins."""

    def logged(self, record: Mapping[str, Any]) -> None:
        """A line was added to the journal."""


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what a full or broken disk raises into a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} could not be written: {error.strerror}; make room and use --resume"
        ) from None


@dataclass(kw_only=True)
class Session:
    """One driver's time with a run."""

    spec: RunSpec
    """With what `auto` came to in its configuration, and rows that all processes of this node share."""
    directory: RunDirectory
    trainer: Trainer
    tracker: NoTracker
    observer: Observer
    resumed: bool
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def execute(self) -> Result:
        """Train to the end, write model and result; after an error or a stop, write a checkpoint and raise."""
        try:
            return self._execute()
        except KeyboardInterrupt:  # a second one, whatever it interrupts: the first was a request
            raise Stopped("stopped at once by a second Ctrl-C; go on with --resume") from None

    def _execute(self) -> Result:
        self._began = self._checkpointed = time.monotonic()
        self._plan, self._config = self.spec.plan, self.spec.config
        self._newest = self.spec.start
        self._warnings: list[str] = []
        self._unlogged: list[dict[str, Any]] = []
        self._recoveries = 0
        self._differs = False
        with self._stack, noted_stop_signals() as self._stop_request:
            self._open()
            self.observer.started(self)
            try:
                self._fit()
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                if interrupted:
                    self._stop_request.note(signal.SIGINT)
                self._take_notices()
                if not isinstance(error, ServerLostError):
                    with contextlib.suppress(DistsgdError, OSError):  # the first error is the one to tell of
                        self._keep_newest()
                with contextlib.suppress(DistsgdError, OSError):
                    self._finish("KILLED" if interrupted else "FAILED")
                if isinstance(error, NonFiniteError):
                    raise self._explained(error) from None
                raise
            if self._newest.step == self._plan.total_steps:
                return self._finish("FINISHED")
            self._finish("KILLED")
            raise self._stopped()

    def _open(self) -> None:
        """Open journal, checkpoint writer and tracker."""
        self._journal = self._stack.enter_context(
            Journal.open(self.directory.journal, resume_step=self.spec.start.step if self.resumed else None)
        )
        start = self.spec.start.step
        validated = [record for record in self._journal.records() if "val/loss" in record and record["step"] <= start]
        self._validated = {key: validated[-1][key] for key in ("val/loss", "val/accuracy")} if validated else {}
        self._identity = rundir.identity(self.directory, self._config, self.spec.data.digest)
        self._writer = checkpoint.Writer(
            self.directory.checkpoints,
            self._identity,
            keep=self._config.checkpoint.keep,
            mlflow_run_id=lambda: run_id.known(self.directory.path),
        )
        self._stack.callback(self._writer.close)
        described = description.describe(self.spec, self.directory, self.tracker.uri)
        self.directory.write_json(description.FILE, described.to_json())
        self.tracker.follow(self.directory)

    def _fit(self) -> None:
        """Train to the last step, or until a signal asks to stop; the last state is on disk when it returns."""
        step, total = self.spec.start.step, self._plan.total_steps
        last_line = self._journal.last_step
        owed = self._plan.is_evaluated(step) and (last_line is None or last_line < step)
        while owed or (step < total and self._stop_request.signum is None):
            try:
                if owed:
                    self._end_epoch()
                    owed = False
                else:
                    step = self._run_epoch(step)
            except ServerLostError as error:
                step = self._recover(error)
        self._keep_newest()

    def _run_epoch(self, step: int) -> int:
        """Train from `step` to the end of its epoch, or until a signal asks to stop; return the step reached."""
        until = self._plan.epoch_end(step)
        step = self.trainer.run(until, self._tick)
        self._tick()
        if step == self._plan.total_steps or (step == until and self._stop_request.signum is None):
            self._end_epoch()
        return step

    def _recover(self, error: ServerLostError) -> int:
        """Go on with a new server from the newest valid checkpoint; return its step.

        What is computed again gives the same bits, so lines that the journal has already are left as they are.
        """
        self._writer.flush()
        newest, problems = checkpoint.load_newest(self.directory.checkpoints, self._identity)
        for problem in problems:
            self._warn(problem)
        self._newest = newest or self.spec.start
        while self._recoveries < self._config.run.max_restarts:
            self._recoveries += 1
            self._warn(f"{error}; a new one goes on from step {self._newest.step}")
            try:
                self.trainer.recover(self._newest)
                return self._newest.step
            except ServerLostError as again:
                error = again
        raise ServerLostError(
            f"{error}, and is not replaced any more (run.max_restarts is {self._config.run.max_restarts}); what was "
            f"trained up to step {self._newest.step} is in the newest checkpoint: find out what ends the parameter "
            "server, then go on with --resume"
        )

    def _tick(self) -> None:
        """Journal what is new, checkpoint if it is time, pass a request to stop on."""
        self._take_notices()
        if self._stop_request.signum is not None:
            self.trainer.stop()
        due = time.monotonic() - self._checkpointed >= self._config.checkpoint.every_s
        snapshot = self.trainer.snapshot() if due else None
        self._log_records()  # after the snapshot, so that its own records are among them
        if snapshot is not None and not self._plan.is_evaluated(snapshot.step):
            self._checkpoint(snapshot)
        self._writer.check()
        warning = self.tracker.take_warning()
        if warning is not None:
            self.observer.note(f"warning: {warning}")

    def _end_epoch(self) -> None:
        """Validate, where the plan says so, and checkpoint."""
        snapshot = self.trainer.snapshot()
        step = snapshot.step
        if self._plan.is_evaluated(step):
            validated = self.trainer.evaluate()
            if not all(math.isfinite(value) for value in validated.values()):
                raise TrainingError(
                    f"the validation loss after step {step} is not finite, although that of the mini-batches is: look "
                    "for huge values in the held-out rows, leave such rows out or normalise them (data.normalize), "
                    "and start a new run; the checkpoint is that of this step"
                )
            self._validated = validated
            if faults.ARMED:
                faults.reached("driver", 0, step, "validated")
            of_this_step = snapshot.last_record.get("step") == step
            record = snapshot.last_record if of_this_step else {"step": step, "epoch": self._plan.epoch(step)}
            self._log(record | self._validated)
        self._checkpoint(snapshot)

    def _log_records(self) -> None:
        """Journal what the trainer has noted; a record stays until its line is written, so that none goes missing."""
        self._unlogged += self.trainer.take_records()
        while self._unlogged:
            if not self._plan.is_evaluated(self._unlogged[0]["step"]):  # else `_end_epoch` completes and journals it
                self._log(self._unlogged[0])
            self._unlogged.pop(0)

    def _log(self, record: dict[str, Any]) -> None:
        """Journal a record; one that is there from before an interruption must agree with what it is now."""
        line = self._journal.append(record)
        key = difference(line, record)
        if key is not None and not self._differs:
            self._differs = True
            self._warn(
                f"step {record['step']} was computed again after an interruption and {key} is {record[key]!r} now, "
                f"where the journal has {line.get(key)!r}: this machine's arithmetic has other last bits than the one "
                "before; run.blas_kernel holds both to one kernel"
            )
        self.observer.logged(line)
        if faults.ARMED:
            faults.reached("driver", 0, record["step"], "journaled")

    def _take_notices(self) -> None:
        for notice in self.trainer.take_notices():
            self._warn(notice)

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self.observer.note(f"warning: {text}")

    def _checkpoint(self, snapshot: Snapshot) -> None:
        """Have `snapshot` written; the journal's lines up to it are on disk first."""
        self._journal.sync()
        self._writer.submit(snapshot)
        if faults.ARMED:
            faults.reached("driver", 0, snapshot.step, "checkpointed")
        self._newest, self._checkpointed = snapshot, time.monotonic()

    def _keep_newest(self) -> None:
        """Write a checkpoint of the trainer's state if it is newer than the last one, and wait until it is on disk."""
        if self._newest.step < self._plan.total_steps:
            try:
                snapshot = self.trainer.snapshot()
                self._log_records()
                if snapshot.step > self._newest.step:
                    self._checkpoint(snapshot)
            except ServerLostError as error:
                self._warn(
                    f"{error}; what it did after step {self._newest.step} is lost, and is done again on --resume"
                )
        self._writer.flush()

    def _finish(self, status: Status) -> Result:
        """Write the result, and the model if training is complete, and end the tracking, which completes the result."""
        data, result = self.spec.data, self._result(status)
        if status == "FINISHED":
            model = Classifier(
                net=self.spec.net,
                flat=self._newest.parameters,
                classes=data.classes,
                normalization=data.normalization,
            )
            with _writing(self.directory.model):
                model.save(self.directory.model)
        self._write_result(result)
        if faults.ARMED:
            faults.reached("driver", 0, result.steps, "written")
        began = time.monotonic()
        ending = self.tracker.finish(
            lambda: self._stop_request.age_s() > GRACE_S and time.monotonic() - began > LEAST_S
        )
        if ending.warning is not None:
            self._warn(ending.warning)
        result = dataclasses.replace(result, mlflow_run_id=ending.run_id)
        self._write_result(result)
        return result

    def _write_result(self, result: Result) -> None:
        with _writing(self.directory.result):
            self.directory.write_json("result.json", result.to_json())

    def _result(self, status: Status) -> Result:
        timings: dict[str, float] = {}
        with contextlib.suppress(TrainingError):  # the parameter server may be what died
            timings = self.trainer.timings()
        return Result(
            status=status,
            weights_sha256=weights_sha256(self._newest.parameters),
            steps=self._newest.step,
            epochs=self._plan.epoch(self._newest.step),
            train_loss=self._newest.last_record.get("train/loss"),
            val_loss=self._validated.get("val/loss"),
            val_accuracy=self._validated.get("val/accuracy"),
            wall_s=time.monotonic() - self._began,
            samples_per_s=timings.get("samples_per_s"),
            step_ms_p50=timings.get("step_ms_p50"),
            step_ms_p95=timings.get("step_ms_p95"),
            mlflow_run_id=None,
            numerics=self.trainer.numerics,
            run_dir=self.directory.path,
            warnings=self._warnings,
        )

    def _explained(self, error: NonFiniteError) -> NonFiniteError:
        """Return `error` with the rows that caused it, and what to do."""
        where = offending_rows(self.spec, self._newest)
        return NonFiniteError(
            f"{error}, {where}. The step was not applied; the parameters before it are in the newest checkpoint. "
            "A lower optim.lr, a warm-up (optim.warmup_steps) or data.normalize=standard usually helps"
        )

    def _stopped(self) -> Stopped:
        signum = self._stop_request.signum or signal.SIGINT
        path = shlex.quote(str(self.directory.path))
        return Stopped(
            f"stopped by {signal.Signals(signum).name} after step {self._newest.step} of {self._plan.total_steps}; "
            f"go on with: distsgd train --resume --run-dir {path}",
            signum=signum,
        )
