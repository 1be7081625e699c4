"""The progress bar: one line that fits the terminal, and the line of what a run does before and after training."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from distsgd.cli.lines import compact, duration, epochs, measured

SHORTEST, LONGEST = 12, 40
"""Columns of the bar itself; fewer only if the terminal has no room for them beside the remaining time."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_SPINNER = "|/-\\"


@dataclass(kw_only=True)
class Bar:
    """The state of training that the bar shows."""

    step: int
    total: int
    epoch: float
    epochs: float
    loss: float | None = None
    accuracy: float | None = None
    r2: float | None = None
    rate: float | None = None
    """Samples per second."""

    def line(self, left_s: float | None, width: int, *, ascii_only: bool = False) -> Text:
        """Return a line of at most `width` columns: the bar and the remaining time, and as many fields as fit."""
        time = "-:--:--" if left_s is None else duration(left_s)
        fields = self._fields(max(0, width - SHORTEST - 1 - len(time)))
        others = [time, *fields[1:]]
        taken = sum(len(field) + 2 for field in fields)
        length = max(0, min(LONGEST, width - taken - 1 - len(time)))
        line = Text(no_wrap=True, overflow="crop", end="")
        if fields:
            line.append(f"{fields[0]}  ")
        done = length if self.step >= self.total else int(length * self.step / self.total)
        full, empty = ("#", "-") if ascii_only else ("━", "─")
        line.append(full * done, "green").append(empty * (length - done), "bright_black")
        if length:
            line.append(" ")
        line.append("  ".join(others))
        return line

    def _fields(self, room: int) -> list[str]:
        """Return the fields that fit into `room` columns with two before each, the most important first."""
        fields = [f"epoch {epochs(int(self.epoch * 100) / 100)}/{epochs(self.epochs)}"]
        if self.loss is not None:
            fields.append(f"loss {measured(self.loss)}")
        if self.accuracy is not None:
            fields.append(f"val acc {measured(self.accuracy)}")
        if self.r2 is not None:
            fields.append(f"val R² {measured(self.r2)}")
        if self.rate is not None:
            fields.append(f"{compact(self.rate)} samples/s")
        fields.append(f"step {self.step:,}/{self.total:,}")
        while sum(len(field) + 2 for field in fields) > room:
            fields.pop()
        return fields


def stage_line(text: str, elapsed_s: float, *, ascii_only: bool = False) -> Text:
    """Return the line of a stage that has taken `elapsed_s` seconds; it is cut where the terminal ends."""
    frames = ASCII_SPINNER if ascii_only else SPINNER
    return Text(
        f"{frames[int(elapsed_s * 8) % len(frames)]} {text}" + (f" ({elapsed_s:.0f} s)" if elapsed_s >= 2 else ""),
        no_wrap=True,
        overflow="crop" if ascii_only else "ellipsis",
        end="",
    )
