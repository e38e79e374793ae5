"""Fuzzing of everything that reads files or text of others: the only errors that may come out are clipstore's own.

`python -m fuzz` (with tests/ on the path; `make fuzz`) runs each target for as long as asked. tests/test_fuzz.py runs a
few inputs of each, and all inputs that once found something.
"""
