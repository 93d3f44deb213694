"""Each case in built-in code by itself, and all of them as one livepatch: seen before, while and after it is loaded."""

from __future__ import annotations

import pytest
from tests.fixmaker import FixMaker
from tests.vm.cases import builtin, tables
from tests.vm.cases.case import Case, fix_of, matches, seen
from tests.vm.cases.conftest import Guests
from tests.vm.livepatched import Loaded, complaints

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

CASES = (*builtin.CASES, *tables.CASES)
QUICK = frozenset({"static local: moved from the cold part", "fsmount"})
"""What stands for the rest where time is short."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow) for case in CASES]
)
def test_case(prepared: Kernel, maker: FixMaker, guests: Guests, case: Case) -> None:
    built = build(prepared, [fix_of(maker, [case])])
    (patched,) = built.manifest.objects
    assert {function.sysfs_name for function in patched.functions} == case.replaces
    assert bool(built.manifest.pinned) == case.pinned
    vm = guests.one()
    before = seen(vm, case)
    assert matches(case.before, before), before
    assert not matches(case.after, before), before
    level = Loaded(vm, built)
    level.insert()
    during = seen(vm, case)
    assert matches(case.after, during), during
    assert not matches(case.before, during), during
    assert level.replaced == {"vmlinux": case.replaces}
    level.disable()
    if not case.pinned:
        level.remove()
    after = seen(vm, case)
    assert matches(case.before, after), after
    assert complaints(vm.kernel_log()) == []


@pytest.mark.slow
def test_all_together(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    built = build(prepared, [fix_of(maker, CASES)])
    (patched,) = built.manifest.objects
    names = {function.sysfs_name for function in patched.functions}
    assert names == frozenset().union(*(case.replaces for case in CASES))
    level = Loaded(fresh, built)
    level.insert()
    assert level.replaced == {"vmlinux": names}
    for case in CASES:
        said = seen(fresh, case)
        assert matches(case.after, said), f"{case.name}: {said}"
    level.disable()
    for case in CASES:
        said = seen(fresh, case)
        assert matches(case.before, said), f"{case.name}: {said}"
    assert complaints(fresh.kernel_log()) == []
