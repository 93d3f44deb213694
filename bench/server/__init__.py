"""`make bench-server`: what a server carries on this machine: check-ins, held requests, storms, restarts, bytes.

The server is the real program with TLS, in processes of its own; the hosts are load generators in theirs, which sign as hosts
do. Whatever is printed says which database it was, and how much processor time each side took.
"""
