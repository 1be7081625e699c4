"""Trains runs in a process with the OpenBLAS kernel that its environment names, and prints their digests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests find each other by bare names

from distsgd.core import numerics
from portable.configurations import spec_of
from portable.ways import in_this_process, serial

KERNELS = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX")


def digests(kernel: str | None, threads: int, numbers: Sequence[int]) -> tuple[str, dict[int, dict[str, str]]] | None:
    """Return the BLAS that a new process has with a kernel, and for each run the digests by the ways to train it.

    None if this processor does not have the instructions of that kernel.
    """
    return answer([sys.executable], numerics.environment(threads, kernel), f"{threads}", numbers)


def answer(
    python: list[str], variables: Mapping[str, str], how: str, numbers: Sequence[int]
) -> tuple[str, dict[int, dict[str, str]]] | None:
    """Return the same of a Python and environment variables; for `how` see `main`."""
    command = [*python, __file__, how, *map(str, numbers)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGILL:
        return None
    assert done.returncode == 0, done.stderr
    blas, *lines = map(json.loads, done.stdout.splitlines())
    return blas, dict(zip(numbers, lines, strict=True))


def main(how: str, numbers: Sequence[int]) -> None:
    """Print the BLAS, and a line for each run; `how` is the number of BLAS threads, or `serial`."""
    print(json.dumps(numerics.fingerprint("cpu")["blas"]))
    for number in numbers:
        spec = spec_of(number)
        found = (
            {"serial": serial(spec)} if how == "serial" else dict(in_this_process(spec, number, blas_threads=int(how)))
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(number) for number in sys.argv[2:]])
