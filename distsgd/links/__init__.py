"""How the parameter server and the workers talk."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distsgd.reduction import Partial


class ServerLink(Protocol):
    """What the parameter server needs of a link to its workers."""

    def exchange(self, step: int, parameters: np.ndarray) -> list[Partial]:
        """Hand `parameters` (P,) to every worker for step `step` and return what they computed for all shards.

        The arrays are valid until the next call. Raises WorkerLostError if a worker dies or does not answer in time.
        """
        ...
