"""The data set that comes with scikit-learn, for a first run without your own data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits included with scikit-learn: 64 pixels of 0 to 16, as uint8."""

    path: str
    table: pa.Table

    @classmethod
    def open(cls, path: str) -> Digits:
        """Load the rows from scikit-learn, which bundles them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(digits.data.astype(np.uint8).ravel()), 64)
        return cls(path, pa.table({"pixels": pixels, "label": pa.array(digits.target)}))

    @property
    def schema(self) -> pa.Schema:
        """A fixed-size-list column `pixels` and a column `label`."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """1,797."""
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order."""
        yield from self.table.select(list(columns)).to_batches(max_rows)
