"""The proof that a vendor changed nothing: a file's compiled code equals both the shipped kernel's and the newer one's."""

from __future__ import annotations

from collections.abc import Mapping

from kmend.factory.build.compile import compile_original, compile_plainly
from kmend.factory.build.unit import Unit
from kmend.factory.build.vendor import Vendor, differences, object_of
from kmend.factory.elf import read_object
from kmend.factory.elf.constants import STB_WEAK
from kmend.factory.kernels.prepared import Kernel


def vendor_changes(kernel: Kernel, vendor: Vendor, source: str, newer: Mapping[str, bytes]) -> dict[str, str]:
    """Function name -> how the vendor's newer kernel differs; empty if it has this file's code unchanged.

    The newer source is compiled with the older headers. For a fix without functional change that gives the older kernel's own
    code; what differs from the newer kernel's then comes from headers. What neither kernel links (weak functions that others
    override, code that the linker drops) is left aside.

    Args:
        newer: the texts of the vendor's newer version that the fix brings: of the source itself, maybe of headers.

    Raises:
        RefusedError: the newer source does not compile.
        KmendError: the file cannot be compiled, or is not in the shipped kernel.
    """
    plain = compile_plainly(kernel, compile_original(kernel, source), newer)
    unit = Unit(source, read_object(plain.content))
    weak = {element.name for element in unit.functions if element.bind == STB_WEAK}
    found: dict[str, str] = {}
    for name in kernel.units[source]:
        here, there = object_of(kernel, name), object_of(vendor.index, name)
        if here is None or there is None:
            return {"(the file)": f"the module {name} is not there"}
        differing = differences(unit, there)
        if differing:
            known = differences(unit, here)
            dropped = {key for key, difference in known.items() if difference.landmark is None or key in weak}
            found |= {key: difference.text for key, difference in differing.items() if key not in dropped}
    return found
