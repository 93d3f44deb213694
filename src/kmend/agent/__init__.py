"""The program on the host: keeps the running kernel patched, and says what it did and why.

`main` is the command line. The decisions are pure and know no files: `choice` (which level, which way back), `preflight`
(may this host load it), `recovery` (what an open intent means), `status` (what is true, and the exit code). The rim:
`livekernel` and `syscalls` (the kernel), `journal`, `quarantine`, `residents`, `store` (durable state), `checking`, `applying`,
`returning` (what the commands do). How it behaves, for people: docs/agent.md.
"""
