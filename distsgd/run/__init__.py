"""Executes a run from its configuration to its result: checks, setup, training and writing the result."""
