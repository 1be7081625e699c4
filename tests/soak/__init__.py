"""A long run on local Ray that watches its own memory and descriptors: `python -m tests.soak --minutes 60`."""
