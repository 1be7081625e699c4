"""Random deaths and stops at exact moments, and whether each run ends as if nothing had happened.

    python -m tests.chaos --runs 50 --seed 0 [--data mnist]

A seed stands for a schedule (schedule.py): workers, nodes, and which process is hit where. A schedule is carried out
(harness.py) with the real command, which is given --resume when its driver was hit, and what it leaves is compared with
the undisturbed run of the serial loop. A seed that fails is printed, and `--seed N --runs 1` does it again.
"""
