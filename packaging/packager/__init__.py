"""Makes the agent's packages: one definition (packaging/kmend.toml), a deb and an rpm of it.

`python -m packager -o DIR` (make packages) is the program. `definition` reads, `staging` lays the files out, `manual` makes
the manual page and the shells' completion from the command line's own definition, `deb` and `rpm` wrap what was laid out.
"""
