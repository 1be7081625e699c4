"""The training session: epochs, recovery from a lost parameter server, and writing the result at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from dataclasses import dataclass, field

from distsgd.engine.confusion import Confusion
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import Extras
from distsgd.errors import DistsgdError, NonFiniteError, ServerLostError
from distsgd.run.checkpointing import Checkpointing
from distsgd.run.ending import End, Reason, explained, grace_is_over, stopped_at_once, stopped_in_training
from distsgd.run.hooks import EpochEnd, EpochHook, StepCheck
from distsgd.run.log import RunLog
from distsgd.run.outcome import measured_result, write_model, write_result, write_tables
from distsgd.run.stopping import EarlyStopping
from distsgd.run.trainer import Trainer
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.proof_writer import ProofWriter
from distsgd.rundir.result import Result, Status
from distsgd.system import faults
from distsgd.system.signals import StopRequest, noted_stop_signals
from distsgd.tracking.tracker import NoTracker


@dataclass(kw_only=True)
class Session:
    """Training of one run by one driver, from the start state in `spec` until the run ends."""

    spec: RunSpec
    directory: RunDirectory
    trainer: Trainer
    tracker: NoTracker
    log: RunLog
    proof: ProofWriter
    checkpointing: Checkpointing
    stopping: EarlyStopping | None
    hooks: list[EpochHook]
    """Called in turn at the end of each epoch."""

    stop_request: StopRequest
    check: StepCheck | None = None
    recoveries: int = 0
    """Number of lost servers that were replaced."""
    confusion: Confusion | None = None
    """Of the classes of the held-out rows, with the final weights."""
    began: float = field(default_factory=time.monotonic)

    def execute(self) -> Result:
        """Train to an end, write the result, and the model if training is complete; return it or raise the end's error.

        After an error or a stop, a checkpoint of the last state is written first.
        """
        try:
            with noted_stop_signals(self.stop_request):
                return self._conclude(self._train_to_an_end())
        except KeyboardInterrupt:  # a second one, whatever it interrupts: the first was a request
            raise stopped_at_once() from None

    def _train_to_an_end(self) -> End:
        """Train and return why that ended; the last state is on disk then, as far as it could be had."""
        plan, path = self.spec.plan, self.directory.path
        try:
            reason = self._train()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted:
                self.stop_request.note(signal.SIGINT)
            self._take_notices()
            if not isinstance(error, ServerLostError):
                with contextlib.suppress(DistsgdError, OSError):  # the first error is the one to report
                    self._checkpoint_last_state()
            if interrupted:
                return End(Reason.STOPPED, stopped_at_once())
            if isinstance(error, NonFiniteError):
                error = explained(error, self.spec, self.checkpointing.newest)
            return End(Reason.FAILED, error)
        if reason is not Reason.STOPPED:
            return End(reason)
        signum, step = self.stop_request.signum or signal.SIGINT, self.checkpointing.newest.step
        return End(reason, stopped_in_training(signum, step=step, total_steps=plan.total_steps, run_dir=path))

    def _train(self) -> Reason:
        """Train to the last step, or until a signal or a hook ends it; the last state is on disk when it returns."""
        plan, step = self.spec.plan, self.spec.start.step
        epoch_ended = self.log.lacks_validation(step)
        reason: Reason | None = None
        while reason is None:
            try:
                if epoch_ended:
                    reason = self._end_epoch()
                    epoch_ended = False
                elif self.stopping is not None and self.stopping.reason is not None:
                    reason = self._complete(self.stopping.reason)
                elif step == plan.total_steps:
                    reason = self._complete(Reason.COMPLETE)
                elif self.stop_request.signum is not None:
                    reason = Reason.STOPPED
                else:
                    end = plan.epoch_end(step)
                    step = self._train_until(self._next_check(step, end))
                    stopped = self.stop_request.signum is not None
                    epoch_ended = step == plan.total_steps or (step == end and not stopped)
                    if self.check is not None and not stopped and (ending := self.check(self.log.records(step))):
                        reason = self._complete(ending)
            except ServerLostError as error:
                if self.stop_request.signum is not None:  # without a server there is nothing to stop
                    reason = Reason.STOPPED
                else:
                    step = self._recover(error)
                    epoch_ended = self.log.lacks_validation(step)
        self._checkpoint_last_state()
        return reason

    def _next_check(self, step: int, end: int) -> int:
        """Return the next step at which the session looks at the run: the end of the epoch, or an earlier one."""
        return end if self.check is None else min(end, (step // self.check.every + 1) * self.check.every)

    def _train_until(self, until: int) -> int:
        """Train to a step, or until a signal asks to stop; return the step reached."""
        step = self.trainer.run(until, self._tick)
        self._tick()
        return step

    def _end_epoch(self) -> Reason | None:
        """Call the hooks; return the first reason to end training that any of them returns."""
        snapshot = self.trainer.snapshot()
        is_evaluated = self.spec.plan.is_evaluated(snapshot.step)
        is_last = snapshot.step == self.spec.plan.total_steps
        end = EpochEnd(snapshot=snapshot, is_evaluated=is_evaluated, is_last=is_last, tick=self._tick)
        reasons = [hook(end) for hook in self.hooks]
        # Where training may end earlier than at the last epoch, the weights that are kept may be others.
        self.confusion = end.confusion if is_last and self.stopping is None else None
        early = None if self.stopping is None else self.stopping.reason  # which is left to `_complete`
        return next((reason for reason in reasons if reason is not None and reason is not early), None)

    def _complete(self, reason: Reason) -> Reason:
        """Return the reason, once the confusion with the final weights has been counted."""
        if self.confusion is None:
            weights = None
            if self.stopping is not None:
                self._checkpoint_last_state()
                weights = self.stopping.kept(self.checkpointing.newest).parameters
            measured = self.trainer.evaluate(self._tick, Extras(confusion=True), weights=weights)
            if measured is None:
                return Reason.STOPPED
            self.confusion = measured.confusion
        return reason

    def _recover(self, error: ServerLostError) -> int:
        """Continue with a new server from the newest valid checkpoint; return its step.

        Repeated steps give identical results, so existing journal lines are kept as they are.
        """
        newest = self.checkpointing.reload()
        self.proof.rewind(newest.step)
        limit = self.spec.config.run.max_restarts
        while self.recoveries < limit:
            self.recoveries += 1
            self.log.warn(f"{error}; a new one continues from step {newest.step}")
            try:
                self.trainer.recover(newest)
                return newest.step
            except ServerLostError as again:
                if self.stop_request.signum is not None:
                    return newest.step
                error = again
        raise ServerLostError(
            f"{error}, and is not replaced any more (run.max_restarts is {limit}); what was "
            f"trained up to step {newest.step} is in the newest checkpoint: find out what ends the parameter "
            "server, then continue with --resume"
        )

    def _tick(self) -> None:
        """Journal new records, write a checkpoint if one is due, and pass on a request to stop."""
        self._take_notices()
        if self.stop_request.signum is not None:
            self.trainer.stop()
        snapshot = self.trainer.snapshot() if self.checkpointing.is_due() else None
        self.log.write_records(self.trainer.take_records())  # after the snapshot, so that its records are included
        if snapshot is not None and not self.spec.plan.is_evaluated(snapshot.step):
            self.checkpointing.submit(snapshot)
        self.checkpointing.check()
        self.log.take_from(self.tracker)

    def _take_notices(self) -> None:
        for notice in self.trainer.take_notices():
            self.log.warn(notice)

    def _checkpoint_last_state(self) -> None:
        """Write a checkpoint of the trainer's state if it is newer than the last one, and wait until it is on disk."""
        newest = self.checkpointing.newest.step
        if newest < self.spec.plan.total_steps:
            try:
                snapshot = self.trainer.snapshot()
                self.log.write_records(self.trainer.take_records())
                if snapshot.step > newest:
                    self.checkpointing.submit(snapshot)
            except ServerLostError as error:
                self.log.warn(f"{error}; the steps after step {newest} are lost, and are computed again on --resume")
        self.checkpointing.flush()

    def _conclude(self, end: End) -> Result:
        """Write the result and finish tracking; return the result, or raise the error that ended the run."""
        try:
            result = self._finish(end.reason.status)
        except (DistsgdError, OSError):
            if end.reason is not Reason.FAILED:  # otherwise the first error is the one to report
                raise
        if end.error is not None:
            raise end.error
        return result

    def _finish(self, status: Status) -> Result:
        """Write the result, and the model if the run finished; then finish tracking and add its run ID."""
        newest = self.checkpointing.newest
        kept = newest if self.stopping is None or status != "FINISHED" else self.stopping.kept(newest)
        result = measured_result(
            status,
            spec=self.spec,
            trainer=self.trainer,
            log=self.log,
            newest=newest,
            kept=kept,
            ended=None if self.stopping is None else self.stopping.told(self.spec.plan.epoch(kept.step)),
            confusion=self.confusion,
            run_dir=self.directory.path,
            wall_s=time.monotonic() - self.began,
        )
        if status == "FINISHED":
            write_model(self.directory, self.spec, kept)
            write_tables(self.directory, self.spec, self.confusion)
        write_result(self.directory, result)
        faults.reached("driver", 0, result.steps, "written")
        if self.tracker.uri is not None:
            self.log.stage("sending the rest of the run to MLflow")
        began = time.monotonic()
        ending = self.tracker.finish(lambda: grace_is_over(self.stop_request, began))
        if ending.warning is not None:
            self.log.warn(ending.warning)
        result = dataclasses.replace(result, mlflow_run_id=ending.run_id)
        write_result(self.directory, result)
        return result
