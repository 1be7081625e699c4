"""From a sweep to its trials: their settings, configurations and rows, and what MLflow is told of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distsgd.cluster.trial_pool import Share
from distsgd.config import Config
from distsgd.errors import counted
from distsgd.sweeps import store
from distsgd.sweeps.rows import RowSets
from distsgd.sweeps.space import SEED, setting_config
from distsgd.sweeps.store import Sweep
from distsgd.sweeps.trial import Metric, Trial, settings_of
from distsgd.tracking import naming
from distsgd.tracking.sweep import Standing


def workers_of(base: Config) -> int:
    """Return the number of workers of each trial: none, unless `run.workers` is a number, or a GPU is asked for."""
    if isinstance(base.run.workers, int):
        return base.run.workers
    return 1 if base.run.device == "cuda" else 0


class TrialPlan:
    """What a sweep trains."""

    def __init__(self, sweep: Sweep, base: Config, metric: Metric) -> None:
        """`base` is the configuration that the trials share."""
        self._sweep, self._base, self._metric = sweep, base, metric
        self.row_sets = RowSets(setting_config(base, setting) for setting in sweep.space.corners)
        self._began_ms = time.time_ns() // 1_000_000
        self._path = Path()
        self._share = Share(count=0, cpus=0, threads=1)
        self._uri: str | None = None

    def begin(self, path: Path, share: Share, uri: str | None) -> None:
        """Note where the trials are trained, each with which share of the cluster, and the store that has them."""
        self._path, self._share, self._uri = path, share, uri
        for trial in self._sweep.trials:
            trial.run_dir = str(store.trial_dir(path, trial.number))

    @property
    def has_more(self) -> bool:
        """Whether trials are waiting, or settings are still to be drawn."""
        trials = self._sweep.trials
        drawn = len(trials) // self._sweep.space.seeds
        return drawn < self._sweep.space.settings or any(trial.state == "PENDING" for trial in trials)

    def draw_setting(self) -> bool:
        """Add the trials of one more setting; return whether there was one. ConfigError if it does not fit."""
        space, trials = self._sweep.space, self._sweep.trials
        number = len(trials) // space.seeds
        if number >= space.settings:
            return False
        setting = self._drawn(number) if space.ranges else space.points[number]
        setting_config(self._base, setting)
        for repetition in range(space.seeds):
            seed = {SEED: self._base.train.seed + repetition} if space.seeds > 1 else {}
            place = str(store.trial_dir(self._path, len(trials) + 1))
            trials.append(Trial(number=len(trials) + 1, setting=number, parameters=setting | seed, run_dir=place))
        return True

    def _drawn(self, number: int) -> dict[str, Any]:
        from distsgd.sweeps.search import draw

        trials = self._sweep.trials if self._sweep.method == "tpe" else []
        return draw(
            self._sweep.space,
            self._sweep.method,
            number,
            self._base.train.seed,
            [(setting.parameters, setting.mean(self._metric)) for setting in settings_of(trials)],
            lower_is_better=self._metric.lower_is_better,
        )

    def requested(self, trial: Trial) -> Config:
        """Return the configuration of a trial as somebody would ask for it who trains it alone."""
        return setting_config(self._base, trial.parameters)

    def config_of(self, trial: Trial) -> Config:
        """Return the configuration of a trial within the sweep; the trained weights do not depend on the difference."""
        values: dict[str, Any] = {
            "run.dir": trial.run_dir,
            "run.name": " ".join(f"{key.partition('.')[2]}={value}" for key, value in trial.parameters.items()),
            "run.workers": workers_of(self._base),
            "run.threads": self._share.threads,
        }
        if self._base.run.device == "auto":
            values["run.device"] = "cpu"
        if self._uri is not None:
            values |= {"tracking.uri": self._uri, "tracking.parent": self._sweep.parent}
        return Config.build(self._base.explicit(), trial.parameters, values)

    def rows_of(self, trial: Trial) -> int:
        """Return the number of the rows that a trial is trained on."""
        return self.row_sets.number_of(self.requested(trial))

    def command(self, trial: Trial) -> str:
        """Return the command that trains a trial again, alone, to the same bits: with its workers, on its device."""
        workers = workers_of(self._base)
        values: dict[str, Any] = {"run.workers": workers}
        if workers and self._base.run.device == "auto":
            values["run.device"] = "cpu"
        return naming.command(Config.build(self.requested(trial).explicit(), values), on_cpu=workers > 0)

    def standing(self) -> Standing | None:
        """Return what MLflow is told of the sweep; None if it is not tracked."""
        if self._uri is None:
            return None
        sweep, space = self._sweep, self._sweep.space
        described = {f"sweep.{key}": text for key, text in space.described().items()}
        described |= {"sweep.trials": str(space.settings * space.seeds), "sweep.seeds": str(space.seeds)}
        shared = naming.parameters(self._base)
        over = sum(trial.is_over for trial in sweep.trials)
        is_final = sweep.status != "RUNNING"
        best = next((trial for trial in sweep.trials if trial.number == sweep.best), None)
        tags, metrics = {"distsgd.sweep": sweep.key, "distsgd.run_dir": str(self._path.resolve())}, dict[str, float]()
        note = f"sweep over {', '.join(space.keys)}: {over} of {counted(space.settings * space.seeds, 'trial')} over"
        if best is not None and best.result is not None:
            tags |= {"best.trial": str(best.number), "best.run_id": str(best.result.get("mlflow_run_id"))}
            tags |= {f"best.{key}": str(value) for key, value in best.parameters.items()}
            tags["distsgd.command"] = self.command(best)
            metrics = {k: float(v) for k, v in best.result.items() if "/" in k and isinstance(v, int | float)}
            values = " ".join(f"{key}={value}" for key, value in best.parameters.items())
            measured = self._metric.of(best.result)
            note = f"**best {self._metric.key} {measured:.4g}**: trial {best.number}, {values}\n\n{note}"
        return Standing(
            experiment=self._base.tracking.experiment,
            name=sweep.parent,
            began_ms=self._began_ms,
            status=sweep.status,
            parameters=described | {key: shared[key] for key in shared if key not in naming.DECIDED},
            tags=tags,
            metrics=metrics,
            step=over,
            note=note,
            files=(str(self._path.absolute() / store.FILE),) if is_final else (),
        )
