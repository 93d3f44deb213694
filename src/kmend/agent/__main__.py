"""`python -m kmend.agent`, which is `kmend`."""

import sys

from kmend.agent.main import main

sys.exit(main())
