"""The rows: opened, checked, normalised, split, and gathered into batches.

`load` turns what a `DataConfig` names into a `DataSet`; `gather` fills a batch from its rows. The files are, from the
outside in: `loading` (the order of things), `sources` (a path's files as one table), `readers`, `csvfile` and `npzfile`
(one file of each format), `columns` and `labels` (what a column means), `normalization`, `batches` and `dataset`.
"""

from distsgd.data.batches import gather
from distsgd.data.dataset import DataSet, InputSchema, Rows
from distsgd.data.loading import load
from distsgd.data.normalization import BatchTransform, Normalization

__all__ = ["BatchTransform", "DataSet", "InputSchema", "Normalization", "Rows", "gather", "load"]
