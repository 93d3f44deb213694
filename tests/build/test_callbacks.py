"""Callbacks that livepatch could not call as they are meant: refused, with what to write."""

from __future__ import annotations

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import Built, RefusalCode, RefusedError, build
from kmend.factory.kernels.prepared import Kernel

PIPE = "fs/pipe.c"


def built_with(prepared: Kernel, maker: FixMaker, *texts: tuple[str, str]) -> Built:
    """A build of files with something at their ends."""
    header = "\n#include <linux/livepatch.h>\n\n"
    return build(prepared, [maker.fix(*(Edit(path, "", header + text) for path, text in texts))])


GOOD = "static void __used kmend_post_patch(struct klp_object *object)\n{\n}\n"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([(PIPE, GOOD.replace("__used ", ""))], "is not in the compiled code"),
        ([(PIPE, GOOD.replace("void", "int", 1).replace("{\n", "{\n\treturn 0;\n"))], "returns int"),
        ([(PIPE, GOOD.replace("struct klp_object *object", "void"))], "does not take"),
        ([(PIPE, GOOD), ("fs/proc/version.c", GOOD)], "one of the same kind"),
    ],
    ids=["not compiled", "result", "parameters", "two of a kind"],
)
def test_refused(prepared: Kernel, maker: FixMaker, texts: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        built_with(prepared, maker, *texts)
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.symbol) == (RefusalCode.CALLBACK, "kmend_post_patch")
    assert said in refusal.message
    assert refusal.hint
