"""Running a server: making one, serving, what only one process of several may do, and what operators see of it.

`founding` makes a server (`authority` its certificates), `serving` answers over TLS what is not the API's, `clockwork` does what
is due (`leases` see to it that one process does), `metrics`, `health` and `logs` tell, `backup` keeps and brings back.
"""
