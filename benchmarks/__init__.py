"""distsgd compared with its peers on the same data; see docs/benchmarks.md."""
