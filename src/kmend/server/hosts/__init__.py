"""The hosts of the fleet: rings, enrolment, check-ins, clones, and what is known of each.

`rings` and `keys` are what operators make; `enrolment` takes a host in, and gives a copy of one an identity of its own;
`checkin` judges check-ins, many in one transaction, and `batching` brings them together; `listing` finds hosts; `upkeep`
lets go of those that are gone. What rollouts have to say comes in through `directions.Directions`.
"""
