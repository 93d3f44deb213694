"""Benchmarks: programs that print figures. No test asserts what they measure.

`python -m bench.build` (make bench-build) measures builds; `python -m bench.kernels` (make kernels-table) builds one fix for
every kernel that can be prepared, and loads it.
"""
