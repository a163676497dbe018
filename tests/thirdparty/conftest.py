"""The packages beside this file are not this project's tests: `test_sample_package.py` runs theirs where they are installed."""

collect_ignore_glob = ["sampan-*"]
