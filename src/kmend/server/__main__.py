"""`python -m kmend.server`: the same as `kmend-server`."""

from __future__ import annotations

from kmend.server.main import main

main()
