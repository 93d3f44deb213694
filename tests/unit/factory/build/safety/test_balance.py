"""Locks and references in two versions of a file."""

from __future__ import annotations

import pytest

from kmend.core.manifest import Notice
from kmend.factory.build.safety.balance import balance_notices
from kmend.factory.build.safety.changes import SourceText
from kmend.factory.build.safety.pairs import meaning

FILE = """
static void open_it(struct it *it)
{
	mutex_lock(&it->lock);
	it->users++;
	mutex_unlock(&it->lock);
}

static void close_it(struct it *it)
{
	spin_lock_irqsave(&it->other, flags);
	if (it->gone)
		goto out;
	it->users--;
out:
	spin_unlock_irqrestore(&it->other, flags);
	kref_put(&it->ref, release_it);
}
"""

OPEN = (
    "static void open_it(struct it *it)\n{\n\tmutex_lock(&it->lock);\n\tit->users++;\n\tmutex_unlock(&it->lock);\n}\n"
)
COUNT = OPEN.replace("open_it", "count").replace("it", "p").replace("struct p", "struct it") + "\n"


def notices(*edits: tuple[str, str], brought: tuple[str, ...] = ("open_it", "close_it")) -> list[Notice]:
    """What is said of the file when it is changed so."""
    text = FILE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return list(balance_notices(SourceText(FILE.encode()), SourceText(text.encode()), brought))


@pytest.mark.parametrize(
    "edits",
    [
        [("it->users++;", "it->users += 1;")],
        [("mutex_lock(&it->lock);", "if (mutex_lock_interruptible(&it->lock))\n\t\treturn;")],
        [("struct it *it)\n{\n\tmutex", "struct it *that)\n{\n\tstruct it *it = that;\n\n\tmutex")],
        [("mutex_lock(&it->lock);", "mutex_lock(&it->lock);\n\tif (it->gone) {\n\t\tmutex_unlock(&it->lock);\n\t\treturn;\n\t}")],
        [("it->users--;", "spin_lock(&it->third);\n\tit->users--;\n\tspin_unlock(&it->third);")],
        [("_irqsave(&it->other, flags)", "_bh(&it->other)"), ("_irqrestore(&it->other, flags)", "_bh(&it->other)")],
        [("kref_put(&it->ref, release_it);", "if (it->ref_held)\n\t\tkref_put(&it->ref, release_it);")],
        [("it->users++;", "kref_get(&it->ref);")],
        [("it->users++;", "it->data = kmalloc(8, GFP_KERNEL);\n\tkfree(it->data);")],
        [("it->users++;", "/* spin_lock(&it->other); */")],
        [("it->users++;", 'pr_info("mutex_unlock(");')],
        [(OPEN, COUNT + "static void open_it(struct it *it)\n{\n\tcount(it);\n}\n")],
        [("it->users++;", "ptep = pte_offset_map_lock(mm, pmd, 0, &ptl);\n\tpte_unmap_unlock(ptep, ptl);")],
    ],
    ids=["nothing of the kind", "another variant", "another variable", "a forgotten unlock", "one lock more", "bh for irqsave",
         "a condition", "a reference that was forgotten", "memory for a while", "a comment", "a string", "a new helper",
         "two names of one lock"],
)  # fmt: skip
def test_harmless(edits: list[tuple[str, str]]) -> None:
    assert notices(*edits) == []


def test_a_lock_for_another() -> None:
    (notice,) = notices(
        ("mutex_lock(&it->lock)", "down_write(&it->sem)"), ("mutex_unlock(&it->lock)", "up_write(&it->sem)")
    )
    assert notice.code == "lock-change"
    assert notice.message.startswith(
        "open_it no longer takes the mutex lock 'lock' (but the semaphore lock 'sem'); until the transition is over"
    )


def test_a_lock_that_is_gone() -> None:
    (notice,) = notices(("\tmutex_lock(&it->lock);\n", ""), ("\tmutex_unlock(&it->lock);\n", ""))
    assert notice.message.startswith("open_it no longer takes the mutex lock 'lock';")


def test_a_lock_that_the_caller_is_to_hold() -> None:
    (notice,) = notices(("\tmutex_lock(&it->lock);\n", ""))
    assert notice.code == "lock-change"
    assert "open_it releases and does not take the mutex lock 'lock'" in notice.message
    (notice,) = notices(("\tmutex_unlock(&it->lock);\n", ""))
    assert "open_it takes and does not release the mutex lock 'lock'" in notice.message


def test_a_reference_from_one_function_to_another() -> None:
    (notice,) = notices(("it->users++;", "get_device(it->dev);"), ("it->users--;", "put_device(it->dev);"))
    assert notice.code == "reference-change"
    assert notice.message.startswith("open_it now keeps what close_it now gives back (device 'dev')")
    (notice,) = notices(
        ("it->users++;", "it->users++;\n\tit->data = kmalloc(8, GFP_KERNEL);"), ("it->users--;", "kfree(it->data);")
    )
    assert "(memory 'data')" in notice.message


def test_functions_without_effect_do_not_count() -> None:
    assert notices(("\tmutex_lock(&it->lock);\n", ""), brought=("close_it",)) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("spin_lock_irqsave", ("lock:spin", 1)),
        ("raw_spin_unlock", ("lock:raw spin", -1)),
        ("rcu_read_lock", ("lock:rcu read", 1)),
        ("srcu_read_unlock", ("lock:srcu read", -1)),
        ("mutex_trylock", ("lock:mutex", 1)),
        ("down_read_killable", ("lock:semaphore", 1)),
        ("up", ("lock:semaphore", -1)),
        ("update", None),
        ("downgrade_write", None),
        ("lock_sock", ("lock:socket", 1)),
        ("release_sock", ("lock:socket", -1)),
        ("unix_state_lock", ("lock:unix state", 1)),
        ("rtnl_unlock", ("lock:rtnl", -1)),
        ("spin_lock_init", None),
        ("lockdep_assert_held", None),
        ("mutex_is_locked", None),
        ("clk_hw_lock_count", None),
        ("kref_put", ("kref", -1)),
        ("fib_info_put", ("fib_info", -1)),
        ("skb_put", None),
        ("nla_put", None),
        ("seq_release", None),
        ("kfree", ("memory", -1)),
        ("printk", None),
    ],
)
def test_what_a_name_means(name: str, meant: tuple[str, int] | None) -> None:
    assert meaning(name) == meant
