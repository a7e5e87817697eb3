"""Benchmarks are commands, not tests: pytest must not import them in search of doctests."""

collect_ignore_glob = ["bench_*.py", "measure.py", "peak.py", "run.py"]
