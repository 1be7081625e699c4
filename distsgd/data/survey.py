"""All that is wrong with rows that were refused, found in one more pass: nobody has to mend them in rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.core.losses import Target
from distsgd.data.columns import RowError
from distsgd.data.datafile import FAILURES, DataFile
from distsgd.data.faults import Fault, encoder_for, feature_faults, label_faults, without_labels
from distsgd.data.in_memory import InMemory
from distsgd.data.refusals import Tally, feature_problems, label_problems, with_commands
from distsgd.data.remedies import setting
from distsgd.data.sources import Source, SourceBatch, open_files, open_source
from distsgd.data.weights import weighted, with_weights
from distsgd.errors import DataError, Problem

ROUNDS = 4
"""How often columns are left out to see what else there is."""

UNUSABLE = ("type", "text", "differs")
"""The kinds of problems whose columns are left out to see what else there is."""

OF_FILES = ("", "differs", "label")
"""The kinds of problems that each file has for itself."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Looks for everything that is wrong with training rows and with those held out."""

    config: DataConfig
    target: Target
    stage: Callable[[str], None]
    weights: NDArray[np.float64] | None = None
    """Those of all training rows, in place of `data.weight`."""

    def completed(self, error: DataError, given: str | InMemory, held_out: str | InMemory | None) -> DataError:
        """Return the error with all other problems of the rows; `error` is the first one that was met."""
        self.stage("looking for all other problems of the rows")
        found, training, classes = self._problems(given, self.config, None, None)
        if held_out is not None:
            config = _without(self.config, found).model_copy(update={"label": self.config.label})
            known = not any(problem.kind == "label" and problem.columns for problem in found)
            found += self._problems(held_out, config, training, classes, labelled=known)[0]
        met = [problem for problem in error.problems if not _told(problem, found)]
        return DataError(problems=_distinct([*met, *found]), notes=error.notes)

    def _problems(
        self,
        given: str | InMemory,
        config: DataConfig,
        training: Source | None,
        classes: NDArray[Any] | None,
        *,
        labelled: bool = True,
    ) -> tuple[list[Problem], Source | None, NDArray[Any] | None]:
        """Return the problems of a path's rows, what could be opened of them, and the classes (C,) of their labels."""
        found, source, files = list[Problem](), None, list[DataFile]()
        try:
            opened = open_files(given, config, training.files[0].schema if training else None)
            files = [file for file in opened[1] if file.num_rows]
            for _ in range(ROUNDS):
                try:
                    source = open_source(given, config, training, target=self.target, labelled=labelled, opened=opened)
                    break
                except DataError as error:
                    new = [p for p in error.problems if not (found and p.kind == "empty")]
                    found = _distinct([*found, *(new or ([] if error.problems else [Problem(str(error))]))])
                    if not new:
                        break
                    labelled = labelled and not any(problem.kind == "label" for problem in new)
                    config = _without(config, new)
                    training = _narrowed(training, new) if training else None
            if source is not None:
                source, of_weights = self._weighted(source.reporting(self.stage), first=training is None)
                values, classes = self._values(source, config, classes, found)
                found += [*of_weights, *values]
        except DataError as error:  # a file that cannot be read
            found += error.problems or [Problem(str(error))]
        except (*FAILURES, TypeError):  # what was met first is told in any case
            pass
        return with_commands(_distinct(found), files), source, classes

    def _weighted(self, source: Source, *, first: bool) -> tuple[Source, list[Problem]]:
        try:
            return (with_weights(source, self.weights) if first and self.weights is not None else weighted(source)), []
        except DataError as error:
            return source, list(error.problems) or [Problem(str(error), (), "weight")]

    def _values(
        self, source: Source, config: DataConfig, classes: NDArray[Any] | None, before: Sequence[Problem]
    ) -> tuple[list[Problem], NDArray[Any] | None]:
        """Return the problems of a source's values, and the classes (C,) of its labels if they can be some."""
        schema, filled = source.schema, config.missing != "refuse"
        found = list[Problem]()
        try:
            encoder = encoder_for(schema, classes, config.classes) if schema.labelled else None
        except DataError as error:
            encoder, found = None, [Problem(str(error), (), "label")]
        known = np.arange(config.classes) if encoder is not None and classes is None and config.classes else classes
        tally, codes = Tally(), list[NDArray[Any]]()
        for batch in source.batches():
            table, usable = batch.table, np.ones(batch.table.num_rows, bool)
            if encoder is not None:
                faults = label_faults(table, schema, encoder, known)
                tally.add(batch, faults)
                usable = ~without_labels(table, schema)
                codes += _codes(batch, encoder, faults, found)
            # What else a row without a label lacks is no matter: it has to be left out.
            rest = batch if usable.all() else batch.only(usable)
            tally.add(rest, feature_faults(rest.table, schema, filled=filled))
            tally.rows += table.num_rows
        known = None
        if encoder is not None and classes is None and any(map(len, codes)) and not (found or tally.of("label")):
            try:
                known = encoder.finish(codes, source.location)
            except DataError as error:
                found.append(Problem(str(error), (), "label"))
        return [
            *found,
            *label_problems(source, tally),
            *feature_problems(source, tally, self._leaving_out(before), filled=filled),
        ], known

    def _leaving_out(self, before: Sequence[Problem]) -> Callable[[Sequence[str]], str]:
        """Return what makes the setting that leaves out columns, beside those that have to be left out anyway."""
        unusable = [name for problem in before if problem.kind in ("type", "differs") for name in problem.columns]
        features, exclude = self.config.features, self.config.exclude

        def setting_for(names: Sequence[str]) -> str:
            if features is not None:
                return setting("data.features", [name for name in features if name not in {*unusable, *names}])
            return setting("data.exclude", list(dict.fromkeys([*exclude, *unusable, *names])))

        return setting_for


def _codes(batch: SourceBatch, encoder: Any, faults: Sequence[Fault], found: list[Problem]) -> list[NDArray[Any]]:
    """Return the targets of the rows without a fault; another reason why they are none is a problem found."""
    good = np.ones(batch.table.num_rows, bool)
    for fault in faults:
        good &= ~fault.rows
    try:
        return [encoder.encode_rows(batch.table if good.all() else batch.table.filter(pa.array(good)))]
    except RowError as problem:
        row = int(np.flatnonzero(good)[problem.row])
        if not any(other.kind == "label" for other in found):
            found.append(Problem(str(batch.error(row, str(problem))), (), "label"))
        return []


def _without(config: DataConfig, problems: Sequence[Problem]) -> DataConfig:
    """Return the configuration that leaves out what problems are about."""
    unusable = {name for problem in problems if problem.kind in UNUSABLE for name in problem.columns}
    chosen = unusable - {*config.labels}
    wrong = {name for problem in problems for name in problem.columns if problem.kind == "choice"}
    changes: dict[str, Any] = {}
    for problem in problems:
        if problem.kind == "label" and problem.columns:  # the column that may be meant
            changes["label"] = problem.columns[0]
    if config.features is not None:
        changes["features"] = tuple(dict.fromkeys(n for n in config.features if n not in chosen | wrong)) or None
    exclude = [name for name in config.exclude if name not in wrong]
    changes["exclude"] = tuple(dict.fromkeys([*exclude, *(sorted(chosen) if config.features is None else ())]))
    kinds = {problem.kind for problem in problems}
    if "weight" in kinds and config.weight is not None:
        changes["weight"] = None
        changes["exclude"] = (*changes["exclude"], config.weight)
    if "unit" in kinds:
        changes["normalize"] = "none"
    return config.model_copy(update=changes)


def _narrowed(training: Source, problems: Sequence[Problem]) -> Source | None:
    """Return the training rows without the columns in which held-out rows differ; None if none are left."""
    differ = {name for problem in problems if problem.kind in UNUSABLE for name in problem.columns}
    schema = training.schema
    kept = {n: kind for n, kind in zip(schema.columns, schema.types, strict=True) if n not in differ}
    if not kept:
        return None
    categorical = schema.categorical & set(kept)
    schema = dataclasses.replace(schema, columns=tuple(kept), types=tuple(kept.values()), categorical=categorical)
    return dataclasses.replace(training, schema=schema)


def _told(problem: Problem, others: Sequence[Problem]) -> bool:
    """Return whether others say what a problem says; those of missing values and labels count all of them."""
    kinds = {other.kind for other in others}
    if (problem.kind == "missing" and kinds & {"missing", "unlabelled"}) or problem.kind == "unlabelled" in kinds:
        return True
    return any(other.text.startswith(problem.text) or _key(other) == _key(problem) for other in others)


def _key(problem: Problem) -> tuple[Any, ...]:
    """Return what two problems of which one is told have in common: files mostly lack the same, for one reason."""
    if problem.kind in OF_FILES or not problem.columns:
        return (problem.text,)
    return problem.kind, problem.columns


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    kept: dict[tuple[Any, ...], Problem] = {}
    for problem in problems:
        kept.setdefault(_key(problem), problem)
    return list(kept.values())
