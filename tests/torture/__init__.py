"""Attacks on a store: kills, damage, full disks, other writers, hostile files, signals.

`python -m torture` (with tests/ on the path; `make torture`) runs as many as asked, prints the seed and a table of what
held, and exits with 1 if anything did not. tests/test_torture.py runs a few of each section.
"""
