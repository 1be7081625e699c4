"""Distributed mini-batch SGD for two-layer classifiers, with one answer to the last bit."""
