"""A job's log, followed until the job ends, over lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable

from distsgd.cluster.job_state import Job, JobState, NotReachedError
from distsgd.errors import JobError

POLL_S = 1.0
"""Seconds between questions after a job's state, and between attempts to connect again."""

LOST_S = 300.0
"""Seconds for which a cluster that does not answer is waited for."""

STOP_AGAIN_S = 5.0
"""Seconds after which a job that goes on is asked to stop again: Ray may forget it of a job that is still pending."""

STOPPED = (129, 130, 143)
"""Exit codes of a run that was stopped by a signal and has its checkpoint."""


CLOSE_S = 5.0
"""Seconds for which the end of a connection to a log, and of a process that reads it, is waited for."""


class Tail:
    """A connection to a job's log, read by a thread; the first `skip` characters are left out."""

    def __init__(self, opened: Callable[[], AsyncIterator[str]], skip: int) -> None:
        self._opened, self._skip = opened, skip
        self._texts: queue.Queue[str | None] = queue.Queue()
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="job log", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> str | None:
        """Return the next text, empty if none comes in time, or None if the connection has ended."""
        try:
            return self._texts.get(timeout=timeout_s)
        except queue.Empty:
            return ""

    def close(self) -> None:
        """End the connection, and a process that reads the log for it."""
        if self._thread.is_alive():
            # The loop may be closed by now, when the thread is about to end.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._read_until_closed())
        except Exception:  # whatever it was, the connection is made again
            pass
        finally:
            self._texts.put(None)

    async def _read_until_closed(self) -> None:
        reading, closing = asyncio.create_task(self._read()), asyncio.create_task(self._closing.wait())
        await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, closing):
            task.cancel()
        await asyncio.gather(reading, closing, return_exceptions=True)

    async def _read(self) -> None:
        async for text in self._opened():
            skipped = min(self._skip, len(text))
            self._skip -= skipped
            if text[skipped:]:
                self._texts.put(text[skipped:])


class Follower:
    """Shows a job's log and returns how the job ended; after an exception from `follow`, that may be called again.

    `close` ends the connection to the log.
    """

    def __init__(self, job: Job, *, show: Callable[[str], None], notice: Callable[[str], None]) -> None:
        self._job, self._show, self._notice = job, show, notice
        self._attempt, self._shown = "", 0
        """Which attempt's log is shown, and how many characters of it have been."""
        self._tail: Tail | None = None
        self._lost_since: float | None = None
        self._stop_due: float | None = None

    def close(self) -> None:
        """End the connection to the log."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def stop(self) -> None:
        """Have `follow` ask the job to stop, until it has ended."""
        self._stop_due = time.monotonic()

    def follow(self) -> JobState:
        """Return the state of the job once it has ended.

        JobError if the cluster does not know it any more, or does not answer for LOST_S.
        """
        polled = 0.0
        while True:
            self._show_next()
            if time.monotonic() - polled < POLL_S:
                continue
            polled = time.monotonic()
            try:
                state = self._state()
                if state.ended:
                    self._show_rest()
                    return state
                if self._stop_due is not None and time.monotonic() >= self._stop_due:
                    self._stop_due = time.monotonic() + STOP_AGAIN_S
                    self._job.stop()
            except NotReachedError as error:
                self._note_silence(error)

    def _show_next(self) -> None:
        if self._tail is None:
            self._tail = Tail(self._job.tail, self._shown)
        text = self._tail.next(POLL_S)
        if text is None:
            self._tail = None
            time.sleep(POLL_S)
        elif text:
            self._shown += len(text)
            self._show(text)

    def _show_rest(self) -> None:
        """Show what the connection has not delivered of a job that has ended."""
        try:
            rest = self._job.log()[self._shown :]
        except NotReachedError as error:  # the machine with the log may be gone
            self._notice(f"the end of the log cannot be read ({error})")
            return
        self.close()
        self._shown += len(rest)
        if rest:
            self._show(rest)

    def _state(self) -> JobState:
        state = self._job.state()
        if self._lost_since is not None:
            self._lost_since = None
            self._notice("the cluster answers again")
        if self._attempt and state.attempt != self._attempt:
            self._notice("the cluster has started the job again")
            self._shown = 0
            self.close()
        self._attempt = state.attempt
        return state

    def _note_silence(self, error: NotReachedError) -> None:
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
            self._notice(f"the cluster does not answer ({error}); trying again for {LOST_S:g} s")
        elif now - self._lost_since > LOST_S:
            raise JobError(
                f"the cluster has not answered for {LOST_S:g} s ({error}); the job {self._job.name} may be running: "
                "the same command shows its log again"
            )


def check_success(name: str, state: JobState) -> None:
    """Raise JobError, which has the job's exit code, unless a job that has ended has succeeded."""
    if state.status == "SUCCEEDED":
        return
    again = "submit it again, and the run continues from its newest checkpoint"
    code = state.exit_code
    if state.status == "STOPPED" or code in STOPPED:
        raise JobError(f"the job {name} was stopped; {again}", exit_code=code or 128 + signal.SIGTERM)
    if code is None:
        lines = [line.strip() for line in state.message.splitlines() if line.strip()] or ["the cluster gives no reason"]
        raise JobError(f"the job {name} failed: {lines[0][:500]}; {again}")
    if code < 0 or code > 128:
        raise JobError(f"the job {name} was killed by {_signal(-code if code < 0 else code - 128)}; {again}")
    raise JobError(f"the job {name} ended with exit code {code}, for which its log has the reason", exit_code=code or 1)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
