"""Signing and verifying: the repository of livepatches (TUF), and the kernel's own module signatures.

The reading side is pure Python and is what hosts use: `client` (verified manifests and modules), `transport` (bounded HTTP
and files), `layout` (where things lie in a repository), `module_signature` (join a module with its signature), `errors`.
The signing side is `signing`, for the factory only: neither the agent nor the server may import it (pyproject.toml,
import-linter). Layout and reasons: docs/decisions/0003-repository-layout.md.
"""
