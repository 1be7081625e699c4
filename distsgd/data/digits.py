"""The data set that comes with scikit-learn, for a first run without your own data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distsgd.data.datafile import TableFile


@dataclass(frozen=True)
class Digits(TableFile):
    """The 1,797 handwritten digits included with scikit-learn: 64 pixels of 0 to 16, as uint8."""

    @classmethod
    def open(cls, path: str) -> Digits:
        """Load the rows from scikit-learn, which bundles them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(digits.data.astype(np.uint8).ravel()), 64)
        return cls(path, pa.table({"pixels": pixels, "label": pa.array(digits.target)}))
