"""distsgd against its peers, on the same data, in one run: see docs/benchmarks.md."""
