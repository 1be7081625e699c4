"""What the held-out rows of a run can be measured by: what the user is told of it, and metrics that are not there."""

from __future__ import annotations

from distsgd.config import Config
from distsgd.core.losses import LOSSES
from distsgd.core.names import shortened
from distsgd.core.net import Net
from distsgd.data import DataSet
from distsgd.engine.roc_auc import Ranking
from distsgd.errors import ConfigError
from distsgd.run.observer import Observer

NAMED = 5
"""Classes or labels that a message names."""


def check_measured(config: Config, rows: DataSet, observer: Observer) -> None:
    """Tell of a ROC-AUC that is not measured, or on some rows; ConfigError if early stopping goes by what is not."""
    stops = config.train.early_stopping is not None
    if rows.val is None:
        if stops:
            raise ConfigError(
                "train.early_stopping goes by held-out rows, and there are none: set data.val or data.val_fraction, or "
                "leave it out"
            )
        return
    loss, metric = LOSSES[config.model.loss], config.train.stopping_metric
    if stops and metric == "macro_f1" and loss.target == "labels" and not rows.val.targets(slice(None)).any():
        raise ConfigError(
            "train.stopping_metric is 'macro_f1', which is not defined: no held-out row has any of the labels; hold "
            "out other rows, or choose another metric"
        )
    if not loss.has_probabilities:
        return
    net = Net(rows.train.features, config.model.hidden, len(rows.classes), loss=config.model.loss)
    ranking = Ranking(net, rows.val)
    why = _why_undefined(ranking, rows)
    if why is not None and stops and metric == "roc_auc":
        raise ConfigError(
            f"train.stopping_metric is 'roc_auc', which is not defined: {why}; hold out other rows, or choose another "
            "metric"
        )
    if why is not None:
        observer.note(f"val/roc_auc is left out: {why}")
    elif ranking.undefined:
        observer.note(f"val/roc_auc is the mean over the other labels: {_named(ranking, rows)} in all held-out rows")
    if ranking.is_defined and ranking.every > 1:
        observer.note(
            f"val/roc_auc is that of one in {ranking.every} of the {len(rows.val):,} held-out rows, so that their "
            "probabilities fit into memory"
        )


def _why_undefined(ranking: Ranking, rows: DataSet) -> str | None:
    if ranking.is_defined:
        return None
    if ranking.target == "labels":
        return f"{_named(ranking, rows)} in all held-out rows"
    some = "" if ranking.every == 1 else f" (one in {ranking.every}, so that they fit into memory)"
    what = "class" if len(ranking.undefined) == 1 else "classes"
    return f"the held-out rows{some} have no row of {what} {_listed(ranking, rows)}"


def _named(ranking: Ranking, rows: DataSet) -> str:
    several = len(ranking.undefined) > 1
    return f"label{'s' * several} {_listed(ranking, rows)} {'are' if several else 'is'} the same"


def _listed(ranking: Ranking, rows: DataSet) -> str:
    names = [repr(shortened(str(rows.classes[number]))) for number in ranking.undefined[:NAMED]]
    more = len(ranking.undefined) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")
