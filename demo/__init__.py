"""The demonstration: a real fix, from the distro's own packages to a running kernel, told step by step and checked apart.

`python -m demo` plays it and writes `demo/record.json`; `python -m demo.verdict` reads that record and decides whether every
step was as told.
"""
