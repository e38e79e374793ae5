"""The tests and benchmarks of a GPU, and their report.

`python -m gpu` (with tests/ on the path; `make gpu`) runs the tests marked `gpu` and the benchmarks, and writes
docs/measured/gpu-NAME.md. tests/test_gpu_report.py writes a report of the CPU with tiny sizes.
"""
