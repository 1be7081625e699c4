"""Trained models in the formats of other libraries: one file each, and each is checked against the model itself.

A library is imported only by the file of its format; those of the extra `export` need not be installed.
"""
