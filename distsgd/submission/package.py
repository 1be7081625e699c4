"""The package that is uploaded for a job: Python files of distsgd and the entry point, and nothing else.

What goes into it is listed, not what stays out, so data, secrets, checkpoints and databases cannot be part of it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

ENTRY = '''"""Entry point for Ray Jobs: `ray job submit --working-dir . -- python jobs/{command}.py CONFIG ...`.

Runs `distsgd {command}` from the checkout that contains this file, with the same arguments and exit codes. Ray Jobs
copy the checkout to the cluster and set RAY_ADDRESS; stopping the job sends SIGTERM, and the run writes a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Use the checkout's distsgd rather than an installed one, as the workers that Ray starts for this job do.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distsgd.cli import main

main(["{command}", *sys.argv[1:]], prog_name="distsgd")
'''
"""Content of `jobs/train.py`, which an installed distsgd does not have."""

SOURCES = Path(__file__).resolve().parents[1]

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of all files in the package, so that the same code is the same package and is uploaded once."""


def contents(command: str, *, code: bool) -> dict[str, bytes]:
    """Return the package's files by name; without `code`, the machines' own distsgd is used."""
    files = {f"jobs/{command}.py": ENTRY.format(command=command).encode()}
    if code:
        for path in sorted(SOURCES.rglob("*.py")):
            if path.is_file() and not path.is_symlink():
                files[f"{SOURCES.name}/{path.relative_to(SOURCES).as_posix()}"] = path.read_bytes()
    return files


def write(path: Path, command: str, *, code: bool) -> None:
    """Write the package as a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in contents(command, code=code).items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            package.writestr(entry, content)
