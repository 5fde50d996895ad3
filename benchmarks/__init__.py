"""Measurements of graft_vfs beside stock SQLite and its peers: `python -m benchmarks --help`."""
