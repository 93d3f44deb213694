"""Hosts by the thousand, without kernels: they speak to a real server with the agent's own code.

What a simulated host sends, keeps and concludes is the agent's: the course of a check-in (`kmend.agent.exchange`), the states and
their changes (`kmend.agent.journal`, in memory), what a restart means (`kmend.agent.recovery`), which level may be loaded
(`kmend.agent.choice`, with the server's rule, the quarantine and recalls), conditions, times and back-off. Made up are the
kernel, which takes some seconds for a transition and fails as a script wants, and the disk.

    bad = Script({2: {Behaviour.PANICS: 0.1}})
    fleet = Fleet(url, ca=ca, groups=[Group(key, 2000)], library=Library.made_up((1, 2)), script=bad)
    asyncio.run(fleet.run(600))

`python -m bench.fleet --help` does the same in a process of its own, and prints its counters as it goes.
"""

from bench.fleet.behaviour import Behaviour, Script, Timing
from bench.fleet.counters import Counters, Snapshot
from bench.fleet.fleet import Fleet, Group
from bench.fleet.library import Library, RepositoryLibrary

__all__ = ["Behaviour", "Counters", "Fleet", "Group", "Library", "RepositoryLibrary", "Script", "Snapshot", "Timing"]
