"""`make demo-fleet`: a server, real hosts in virtual machines and two thousand simulated ones, in three rings.

A good level rolls through all rings; a bad one, which panics the canary for real, is halted before it leaves the first; a recall
takes a level off. What happened is kept in a record, and `demo.fleet.verdict` decides from the record alone.
"""
