"""Runs the agent's tests on every interpreter that can be had: `python -m tests.interpreters` (make test-interpreters).

What the agent needs comes from the same wheels that the packages carry; `finding` looks for interpreters, `running` makes each a
folder of test tools and runs the tests there, `plugin` is loaded into those runs.
"""
