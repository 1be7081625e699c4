"""Entry point for Ray Jobs: `ray job submit --working-dir . -- python jobs/sweep.py CONFIG ...`.

Runs `distsgd sweep` from the checkout that contains this file, with the same arguments and exit codes. Ray Jobs
copy the checkout to the cluster and set RAY_ADDRESS; stopping the job sends SIGTERM, and the run writes a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Use the checkout's distsgd rather than an installed one, as the workers that Ray starts for this job do.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distsgd.cli import main

main(["sweep", *sys.argv[1:]], prog_name="distsgd")
