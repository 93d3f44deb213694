"""The command line. Some commands work on this machine (`init`, `run`, `backup` and others); the rest are clients of the API."""
