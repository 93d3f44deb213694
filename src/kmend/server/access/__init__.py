"""Who may do what, and an account of who did: tokens, roles, and the audit log.

`tokens` makes and recognises the tokens of people and programs, `permissions` says what each role may do and where, `audit`
writes the hash-chained log and verifies an export of it. Secrets are shown once, when they are made, and kept as digests
(`secrets`).
"""
