"""Evidence for auditors: a signed pack of what the fleet ran, who approved it and what was open, verified without this server.

`making` writes a pack (from `gathering`, `published`), `verifying` holds one against what proves it, `signing` lets a person
countersign, `inventory` is the organisation's own list of machines. `container` is the form of the file, `documents` what its
files hold; `timelines` is what is computed, pure, by whoever makes a pack and again by whoever verifies it.
"""
