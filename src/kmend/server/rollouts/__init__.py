"""Rollouts: who gets a new level, when, and when it stops by itself.

`plan` and `engine` decide and are pure: stages, tallies and hosts in, grants and verdicts out. Around them, `directing` speaks
to hosts within their check-ins, `evaluating` looks every two seconds whether a stage has passed or failed, `acts` is what people
do, and `telling` is what they are told. States and reasons: docs/rollouts.md, docs/decisions/0023-rollouts.md.
"""

from kmend.server.rollouts.acts import begin_automatic
from kmend.server.rollouts.directing import Rollouts
from kmend.server.rollouts.evaluating import evaluate

__all__ = ["Rollouts", "begin_automatic", "evaluate"]
