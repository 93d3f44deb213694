"""A distro's kernels: packages in, a prepared kernel out (source tree and index), and the facts that others need of it.

`prepare(ref)` gives a `Kernel`; `packages` and `sources` reach single packages and source files; `choose_kernel` picks from
a preference list what the archive offers.
"""
