"""The data set that comes with scikit-learn, for a first run without your own data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from distsgd.data.datafile import TableFile
from distsgd.errors import DataError

FILE = Path("datasets", "data", "digits.csv.gz")
"""Where the rows are in scikit-learn's package: 64 pixels and the label in each line."""


@dataclass(frozen=True)
class Digits(TableFile):
    """The 1,797 handwritten digits included with scikit-learn: 64 pixels of 0 to 16, as uint8."""

    @classmethod
    def open(cls, path: str) -> Digits:
        """Read the rows; DataError if scikit-learn does not have them.

        They are read from its package without importing it, which would take longer than all other imports together.
        """
        package = find_spec("sklearn")
        if package is None or not package.submodule_search_locations:
            raise DataError("the digits come with scikit-learn, which is not installed; pass other rows with --data")
        file = Path(package.submodule_search_locations[0]) / FILE
        try:
            rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        except FileNotFoundError:
            raise DataError(
                f"the digits that come with scikit-learn are not at {str(file)!r}; install the release of scikit-learn "
                "that constraints.txt names, or pass other rows with --data"
            ) from None
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(rows[:, :64].ravel()), 64)
        return cls(path, pa.table({"pixels": pixels, "label": pa.array(rows[:, 64].astype(np.int64))}))
