"""Rows that are refused: how many there are, and the settings and commands that help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distsgd.data.columns import MissingLabel, MissingValue, RowError
from distsgd.data.csvfile import CsvFile
from distsgd.data.datafile import DataFile, TextFile, row_error
from distsgd.data.faults import Fault
from distsgd.data.repairs import rewriting
from distsgd.data.sources import Source, SourceBatch
from distsgd.data.unusable import LONGEST_SETTING, SHOWN, listing
from distsgd.errors import DataError, Problem, counted


def refusal(batch: SourceBatch, problem: RowError) -> DataError:
    """Return the error for a row of a batch; a survey.Survey tells more of it."""
    kind = "unlabelled" if isinstance(problem, MissingLabel) else "missing"
    kind = kind if isinstance(problem, MissingLabel | MissingValue) else "row"
    return DataError(problems=[Problem(f"{batch.place(problem.row)}: {problem}", (), kind)])


@dataclass
class Count:
    """The rows that have a fault, of which the first one is told."""

    file: DataFile
    row: int
    """Its number within the file."""
    text: str
    repair: tuple[str, str] | None
    column: str
    rows: int = 0

    def problem(self, kind: str, total: int, remedies: tuple[str, ...] = ()) -> Problem:
        """Return what is told of these rows, `total` being all there are."""
        error = row_error(self.file, self.row, f"{self.text} ({self.rows:,} of {counted(total, 'row')})")
        return Problem(str(error), remedies, kind, (self.column,), self.repair)


@dataclass
class Tally:
    """Counts the rows whose values cannot be used, by what is wrong with them and by column."""

    rows: int = 0
    counts: dict[tuple[str, str, str], Count] = field(default_factory=dict)

    def add(self, batch: SourceBatch, faults: Sequence[Fault]) -> None:
        """Add the faults of a batch."""
        for fault in faults:
            key = (fault.kind, fault.column, fault.detail)
            if key not in self.counts:
                first = int(np.argmax(fault.rows))
                text, repair = fault.text(first)
                self.counts[key] = Count(batch.file, batch.in_file(first), text, repair, fault.column)
            self.counts[key].rows += int(fault.rows.sum())

    def of(self, kind: str) -> list[Count]:
        """Return the counts of a kind."""
        return [count for key, count in self.counts.items() if key[0] == kind]


def label_problems(source: Source, tally: Tally) -> list[Problem]:
    """Return what is wrong with labels: rows without one, with the command that leaves them out, and wrong ones."""
    found = []
    for count in tally.of("unlabelled")[:1]:
        file, labels = count.file, source.schema.labels
        column = "columns" if len(labels) > 1 else "column"
        has, which = ("has", "the row") if count.rows == 1 else ("have", "the rows")
        text = (
            f"{count.text}; {count.rows:,} of {counted(tally.rows, 'row')} {has} no label in {column} {listing(labels)}"
        )
        # A total below the table, for example, is cut off.
        last = len(source.files) == 1 and source.kept is None and count.rows == file.num_rows - count.row
        cut = file.without_end(count.row) if last and isinstance(file, CsvFile) else None
        repair = (f"leave out {which} without a label", _filter(labels))
        remedies = (f"{repair[0]}, with {cut}",) if cut else ()
        found.append(Problem(str(row_error(file, count.row, text)), remedies, "unlabelled", tuple(labels), repair))
    return found + [count.problem("label", tally.rows) for count in tally.of("label")]


def _filter(labels: Sequence[str]) -> str:
    """Return the statement that keeps the rows of a frame `d` that have all labels."""
    if len(labels) > 1:
        return f"d = d.dropna(subset={list(labels)!r})"
    return f"d = d[d[{labels[0]!r}].notna() & d[{labels[0]!r}].ne('')]"


def feature_problems(
    source: Source, tally: Tally, leaving_out: Callable[[Sequence[str]], str], *, filled: bool
) -> list[Problem]:
    """Return the columns that have values that cannot be used, each with its first one and how many there are.

    `leaving_out` makes the setting that leaves columns out; where single missing values are `filled`, lists are not.
    """
    infinite = [count.column for count in tally.of("infinite")]
    remedies = {
        "missing": "leave out rows whose list is missing" if filled else _filling(source, tally, leaving_out),
        "infinite": _or_leave_out(source, "correct infinite values", infinite, leaving_out(infinite)),
        "length": "leave out rows whose lists have another length, or write lists of one length",
    }
    found = []
    for kind, remedy in remedies.items():
        counts = tally.of(kind)
        found += [count.problem(kind, tally.rows, (remedy,)) for count in counts[:SHOWN]]
        rest = counts[SHOWN:]
        if rest:
            names = tuple(count.column for count in rest)
            what = {"missing": "missing values", "infinite": "infinite values", "length": "such lists"}[kind]
            found.append(Problem(f"{source.location}: {what} in {len(names):,} more columns", (remedy,), kind, names))
    return found


def _or_leave_out(source: Source, what: str, names: Sequence[str], setting: str) -> str:
    """Return what to do, or to leave columns out: with the setting if it is short, and some columns are left."""
    some = len(setting) < LONGEST_SETTING and len(names) < len(source.schema.columns)
    return f"{what}, or leave these columns out: {setting}" if some else f"{what}, or leave such rows out"


def _filling(source: Source, tally: Tally, leaving_out: Callable[[Sequence[str]], str]) -> str:
    """Return what to do about missing values."""
    counts = tally.of("missing")
    names = [count.column for count in counts]
    empty = [count.column for count in counts if count.rows == tally.rows]
    if empty and len(leaving_out(empty)) < LONGEST_SETTING and len(empty) < len(source.schema.columns):
        rest = ", and fill the others with --set data.missing=mean (or zero)" if len(names) > len(empty) else ""
        return f"leave out what has no values at all: {leaving_out(empty)}{rest}"
    return _or_leave_out(source, "fill them with --set data.missing=mean (or zero)", names, leaving_out(names))


def with_commands(problems: Sequence[Problem], files: Sequence[DataFile]) -> list[Problem]:
    """Return the problems of a path's files with the command that repairs all that can be repaired.

    It is one command, because each reads the file as it is: of two of them one would undo what the other has done.
    """
    repairs = {problem.repair: problem for problem in problems if problem.repair is not None}
    if not repairs or (len(repairs) == 1 and any(p.kind == "unlabelled" and p.remedies for p in repairs.values())):
        return list(problems)
    what = ", and ".join(words for words, _ in repairs)
    # Text that should be numbers would stay text in what pandas writes, and become categories.
    readable = len(files) == 1 and not (isinstance(files[0], TextFile) and files[0].doubts)
    command = rewriting(files[0], *(change for _, change in repairs)) if readable else None
    instead = "or " if any(problem.kind == "type" for problem in repairs.values()) else ""
    remedy = f"{instead}{what}, with {command}" if command else f"{instead}{what}"
    last = max(number for number, problem in enumerate(problems) if problem.repair is not None)
    found = []
    for number, problem in enumerate(problems):
        kept = () if command and problem.kind == "unlabelled" else problem.remedies
        found.append(dataclasses.replace(problem, remedies=(*kept, *((remedy,) if number == last else ()))))
    return found
