"""Data loading: opening, checking, normalising and splitting rows, and gathering them into batches.

`load` turns what a `DataConfig` names into a `DataSet`; a `Gatherer` fills mini-batches from its rows. The files are,
from the outside in: `loading` (the order of things), `filling` (the arrays that rows are read into), `sources` (a
path's files as one table), `formats` (one entry for each) with `parquetfile`, `arrowfile`, `npzfile` and `csvfile`,
`selection`, `fitting`, `columns` and `labels` (what a column means), `normalization`, `rows` (in memory or
not), `dataset` and `gatherer`.
"""

from distsgd.data.dataset import DataSet
from distsgd.data.gatherer import Gatherer
from distsgd.data.loading import load
from distsgd.data.normalization import BatchTransform, Normalization
from distsgd.data.rows import ArrayRows, Rows
from distsgd.data.schema import InputSchema

__all__ = ["ArrayRows", "BatchTransform", "DataSet", "Gatherer", "InputSchema", "Normalization", "Rows", "load"]
