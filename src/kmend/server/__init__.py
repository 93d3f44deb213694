"""The program of a fleet's operator: hosts, check-ins, rollouts, and an account of everything that was done.

Its rooms: `store` (database), `hosts` (enrolment, check-ins, clones), `rollouts` (who gets a new level, when, and when it stops),
`repository` (what the signed repository holds, the online keys), `access` (tokens, roles, audit), `notices` (webhooks,
e-mail), `operations` (metrics, health, logs), `api` (HTTP), `commands` (the command line). It chooses among signed levels
and may hold them back; it signs none, and imports only the verifying side of `trust`, and its online keys.
"""
