"""One hash on every machine: `python -m benchmarks.portable` compares what portable arithmetic gives in many ways.

It runs benchmarks/portable_loop.py with each of OpenBLAS's kernels that this processor has, with one and two threads,
without NumPy's vector code, and as asked for: with another Python (`--python`, of an environment with another NumPy),
another BLAS (`--blas`), and on ARM64 under emulation (`--arm64`). Exits 1 if any hash differs. The last line printed is
one for the table of docs/exactness.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

KERNELS = ("Prescott", "Core2", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX", "Cooperlake")
"""OpenBLAS's, for x86-64; one that the processor cannot run is replaced by OpenBLAS or ends the process."""

ARM64_PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libexpat1", "zlib1g", "libssl3"),
    *("libffi8", "libgcc-s1", "libstdc++6", "libbz2-1.0", "liblzma5", "libcrypt1", "libuuid1"),
)
"""Debian 12's packages of a Python for ARM64 and the libraries that it and NumPy load."""

ARM64_CONFIGURATIONS = 3

ROOT = Path(__file__).parent.parent


def loop(command: list[str], environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Return what the loop prints in a process of its own; RuntimeError if it fails."""
    done = subprocess.run(
        [*command, "-m", "benchmarks.portable_loop", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ways(
    pythons: tuple[str, ...], libraries: tuple[str, ...], steps: int
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield the name of each way on this machine, and what it gave or why it gave nothing."""
    here, count = [sys.executable], ("--steps", str(steps))
    runs = [(f"Python {path}", [path], {}, count) for path in pythons]
    runs += [(f"BLAS {path}", here, {"MKL_NUM_THREADS": "2"}, (*count, "--blas", path)) for path in libraries]
    if platform.machine() == "x86_64":
        runs += [("without NumPy's AVX2 code", here, {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}, count)]
        for kernel in KERNELS:
            for threads in ("1", "2"):
                variables = {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": threads}
                runs.append((f"OpenBLAS {kernel}, threads: {threads}", here, variables, (*count, "--fast")))
    for name, command, environment, arguments in runs:
        try:
            yield name, loop(command, environment, *arguments)
        except RuntimeError as error:
            yield name, str(error)


def prepare_arm64(folder: Path, more: Sequence[str] = ()) -> None:
    """Download Debian's Python, and the wheels of NumPy and `more` for ARM64, into `folder`, unless they are there.

    Needs apt-get with `dpkg --add-architecture arm64` and `apt-get update` done, and pip.
    """
    wanted = "\n".join([f"numpy=={np.__version__}", *more])
    done = folder / "site" / "done"
    if done.exists() and set(wanted.splitlines()) <= set(done.read_text().splitlines()):
        return
    packages, wheels = folder / "packages", folder / "wheels"
    for made in (packages, wheels, folder / "root", folder / "site"):
        made.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *(f"{name}:arm64" for name in ARM64_PACKAGES)], cwd=packages, check=True)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    options = ["--python-version", "3.11", "--only-binary=:all:", "--no-deps"]
    for version in ("2014", "_2_27"):
        options += ["--platform", f"manylinux{version}_aarch64"]
    pip = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", wheels, *wanted.splitlines()]
    subprocess.run(pip, check=True)
    for wheel in wheels.glob("*.whl"):
        subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, folder / "site"], check=True)
    done.write_text(wanted)


def arm64_command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the Python that runs under qemu's emulation of a process (Debian's qemu-user-static), and variables."""
    root = folder.resolve() / "root"
    command = ["qemu-aarch64-static", "-L", str(root), str(root / "usr" / "bin" / "python3.11")]
    return command, {"PYTHONPATH": f"{ROOT}:{folder.resolve() / 'site'}", "OPENBLAS_NUM_THREADS": "1"}


def on_arm64(folder: Path, steps: int) -> dict[str, Any]:
    """Return what ARM64 gives under emulation."""
    prepare_arm64(folder)
    command, variables = arm64_command(folder)
    return loop(command, variables, "--steps", str(steps), "--first", str(ARM64_CONFIGURATIONS), "--fast")


def combined(hashes: dict[str, str]) -> str:
    """Return the first twelve digits of the hash of all hashes, in their order."""
    return hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:12]


def table_line(steps: int, found: dict[str, Any], processor: str, how: str) -> str:
    """Return a line of the table in docs/exactness.md."""
    return f"| {processor} | {found['numpy']} | {how} | {steps} | `{combined(found['portable'])}` |"


@click.command()
@click.option("--steps", default=40, show_default=True, help="Steps of SGD.")
@click.option("--python", "pythons", multiple=True, help="Another Python, with NumPy.")
@click.option("--blas", "libraries", multiple=True, help="Another BLAS library, with cblas_dgemm and 32-bit integers.")
@click.option(
    "--arm64", type=click.Path(path_type=Path), help="Also run on emulated ARM64; a folder for what it needs."
)
def main(steps: int, pythons: tuple[str, ...], libraries: tuple[str, ...], arm64: Path | None) -> None:
    """Compare the weights that portable arithmetic gives in many ways."""
    here = loop([sys.executable], {}, "--steps", str(steps), "--fast")
    found = list(ways(pythons, libraries, steps))
    if arm64 is not None:
        found.append(("ARM64, emulated", on_arm64(arm64, steps)))
    fast, differing = {combined(here["fast"])}, []
    click.echo(f"{combined(here['portable'])}  here, NumPy {here['numpy']}")
    for name, result in found:
        if isinstance(result, str):
            click.echo(f"{'-' * 12}  {name}: {result}")
            continue
        same = all(here["portable"][key] == value for key, value in result["portable"].items())
        click.echo(f"{'the same' if same else 'ANOTHER!':12}  {name}, NumPy {result['numpy']}")
        if len(result["fast"]) == len(here["fast"]):
            fast.add(combined(result["fast"]))
        if not same:
            differing.append(name)
    click.echo(f"The default arithmetic gave {len(fast)} different results in these ways.")
    click.echo(table_line(steps, here, platform.processor() or platform.machine(), "OpenBLAS, all kernels"))
    if differing:
        raise click.ClickException(f"portable arithmetic gave other weights: {', '.join(differing)}")


if __name__ == "__main__":
    main()
