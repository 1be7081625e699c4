"""Hostile inputs: odd tables, configurations, paths, tracking URIs, run directories, models, journals and bytes.

    python -m tests.hostile --examples 10000 --seed 0 [--only config,rundirs]

Each generator is a hypothesis strategy of cases, plain data, and a check that tries one with the real command in a
sandbox (sandbox.py) and returns what was wrong: a traceback, a hang, something left behind, a secret that can be read
somewhere, or a wrong answer. The suite tries a few of each (test_hostile.py), the command any number. A case is known
by the generator's name, a seed and a number, and `--only NAME --seed SEED --case NUMBER` tries it again.
"""
