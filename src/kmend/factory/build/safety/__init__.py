"""Safety reports: what a livepatch may do to a kernel that runs, although it was built well.

Each module looks at one danger: callers by an old prototype (`prototypes`), functions that some task is always in and code that
livepatch's look at stacks misses (`stacks`), addresses that the kernel may keep (`escapes`), locks and references that old and
new code treat differently (`balance`), hunks that are in no binary (`hunks`), copies of inlined code that stay (`copies`). What
is asked of the whole kernel is worked out once and kept with it (`kernelsets`). Errors refuse; the rest are warnings of the
manifest (`Notice`), each with a code of the closed list in `docs/patch-authors.md`, and reasons why a level stays loaded.
"""

from kmend.factory.build.safety.review import NOTICE_CODES, Review, ReviewedUnit, old_prototypes, residents, review
from kmend.factory.build.safety.stacks import resident_refusals

__all__ = ["NOTICE_CODES", "Review", "ReviewedUnit", "old_prototypes", "resident_refusals", "residents", "review"]
