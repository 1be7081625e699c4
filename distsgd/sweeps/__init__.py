"""Sweeps: many runs of one configuration that differ in a few keys, several at once, on rows that are read once."""
