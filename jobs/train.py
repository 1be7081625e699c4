"""What one submits to a cluster: `ray job submit --working-dir . -- python jobs/train.py CONFIG --set KEY=VALUE ...`.

It is `distsgd train` of the checkout that it lies in, with the same arguments and exit codes. Ray Jobs carry the
checkout to the cluster and name the cluster in RAY_ADDRESS; stopping the job is a SIGTERM, on which it checkpoints.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The checkout's distsgd comes before one that is installed, as it does in the workers that Ray starts for this job.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distsgd.cli import main

main(["train", *sys.argv[1:]], prog_name="distsgd")
