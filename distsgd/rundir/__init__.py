"""The files of a run directory: lock, journal, checkpoints, result, model."""
