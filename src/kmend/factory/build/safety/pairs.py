"""What kernel functions take and give back, by their names: locks, references, memory."""

from __future__ import annotations

import re

LOCK = "lock:"
"""How the kinds of locks begin."""
_REFERENCES = (
    ("file", "fget get_file", "fput"),
    ("dentry", "dget", "dput"),
    ("inode", "igrab ihold", "iput"),
    ("mount", "mntget", "mntput"),
    ("path", "path_get", "path_put"),
    ("kref", "kref_get kref_get_unless_zero", "kref_put"),
    ("refcount", "refcount_inc refcount_inc_not_zero", "refcount_dec refcount_dec_and_test"),
    ("module", "try_module_get __module_get", "module_put"),
    ("kobject", "kobject_get", "kobject_put"),
    ("device", "get_device", "put_device"),
    ("PCI device", "pci_dev_get", "pci_dev_put"),
    ("node", "of_node_get", "of_node_put"),
    ("runtime power", "pm_runtime_get_sync pm_runtime_resume_and_get", "pm_runtime_put"),
    ("sock", "sock_hold", "sock_put"),
    ("network device", "dev_hold netdev_hold", "dev_put netdev_put"),
    ("net", "get_net maybe_get_net", "put_net"),
    ("route", "dst_hold", "dst_release"),
    ("task", "get_task_struct", "put_task_struct"),
    ("pid", "get_pid", "put_pid"),
    ("cred", "get_cred", "put_cred"),
    ("mm", "mmget mmgrab mmget_not_zero", "mmput mmdrop"),
    ("page", "get_page", "put_page"),
    ("folio", "folio_get", "folio_put"),
    ("socket buffer", "skb_get alloc_skb skb_clone skb_copy", "kfree_skb consume_skb kfree_skb_reason"),
    (
        "memory",
        "kmalloc kzalloc kcalloc kmalloc_array kvmalloc kvzalloc kvcalloc kmemdup kstrdup memdup_user vmalloc vzalloc",
        "kfree kvfree vfree kfree_sensitive",
    ),
    ("object of a cache", "kmem_cache_alloc kmem_cache_zalloc", "kmem_cache_free"),
)
"""Kind, and the functions that take and that give back one."""
_NAMED = {
    name: (kind, sign)
    for kind, taking, giving in _REFERENCES
    for sign, names in ((1, taking), (-1, giving))
    for name in names.split()
}
MEMORY = frozenset({"memory", "object of a cache", "socket buffer"})
"""What is known by the variable that it is put into, not by an argument, when it is taken."""
_VARIANTS = frozenset(
    {
        "irq",
        "irqsave",
        "irqrestore",
        "bh",
        "nested",
        "nest",
        "interruptible",
        "killable",
        "sub",
        "io",
        "fast",
        "slow",
        "timeout",
    }
)
"""Parts of a lock function's name that say how, not what."""
_NO_LOCK = frozenset(
    {
        "init",
        "lockdep",
        "destroy",
        "assert",
        "held",
        "is",
        "class",
        "name",
        "block",
        "clock",
        "stat",
        "key",
        "posix",
        "hw",
    }
    | {"owner", "type", "count", "version", "contended"}
)
"""Parts that tell of something else than taking a lock."""
_SEMAPHORE = re.compile(r"(down|up)(_read|_write)?(?:_(?:trylock|interruptible|killable|timeout|nested|nest_lock))?")
_REFERENCE = re.compile(r"(?P<head>\w+?)_(?P<verb>get|hold|grab|put|release)")
_NOT_COUNTED = frozenset(
    {"skb", "nla", "seq", "i2c", "regmap", "user", "nlmsg", "xdr", "sg", "bio", "inode", "single", "dev"}
)
"""Heads whose `_get`, `_put` and `_release` mean something else, or name a function that is called when a thing goes."""


def meaning(name: str) -> tuple[str, int] | None:
    """What the function of that name takes (1) or gives back (-1), as (kind, sign); None if nothing that is known."""
    if name in _NAMED:
        return _NAMED[name]
    semaphore = _SEMAPHORE.fullmatch(name)
    if semaphore:
        return f"{LOCK}semaphore", 1 if semaphore[1] == "down" else -1
    if name in ("lock_sock", "lock_sock_nested", "release_sock"):
        return f"{LOCK}socket", -1 if name == "release_sock" else 1
    parts = name.strip("_").split("_")
    verb = next((part for part in parts if part in ("lock", "unlock", "trylock")), None)
    if verb is not None:
        if not _NO_LOCK.isdisjoint(parts):
            return None
        what = " ".join(part for part in parts if part not in _VARIANTS and part != verb)
        return f"{LOCK}{what}", -1 if verb == "unlock" else 1
    reference = _REFERENCE.fullmatch(name)
    if reference and reference["head"].split("_")[0] not in _NOT_COUNTED:
        return reference["head"], 1 if reference["verb"] in ("get", "hold", "grab") else -1
    return None


def names_of(kinds: list[tuple[str, str]]) -> str:
    """Locks in words; each is a kind and the name of the member or variable, if there is one."""
    found = []
    for kind, member in kinds:
        plain = f"the {kind.removeprefix(LOCK)} lock".replace("  ", " ")
        found.append(f"{plain} '{member}'" if member else plain)
    return " and ".join(found)
