"""Under UEFI Secure Boot and lockdown: what the kernel refuses, how the agent explains it, and that ours goes in.

Each case is a fix to real code, built, published without a signature of the publisher's, and signed by operators: `acme`, whose
certificate is enrolled in the guest's firmware, `stranger`, whose certificate is not, and `mixed-up`, whose certificate is, but
whose signatures belong to something else.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.core.manifest import Manifest
from kmend.core.process import run
from kmend.factory.build import build, write_build
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel
from kmend.trust import layout, module_signature
from kmend.trust.signing import keyfiles, modules
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan, ModuleKey
from kmend.trust.signing.publishing import Publisher, read_build

ROOT = Path(__file__).parents[2]
AGENT = "/opt/kmend/kmend"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
ENROLLED, STRANGER = "Acme livepatches", "A stranger"


@dataclass(frozen=True)
class Case:
    """A fix and how its effect shows.

    Attributes:
        modules: loaded in the guest before anything is tried.
        probe: shell; its output contains `mended` if and only if the fix is in force.
    """

    name: str
    edit: Edit
    probe: str
    modules: tuple[str, ...] = ()


CASES = (
    Case(
        "built-in",
        Edit(
            "fs/proc/version.c",
            "\t\tutsname()->version);\n\treturn 0;",
            '\t\tutsname()->version);\n\tseq_puts(m, "mended\\n");\n\treturn 0;',
        ),
        "cat /proc/version",
    ),
    Case(
        "module",
        Edit(
            "net/netfilter/x_tables.c",
            'seq_printf(seq, "%s\\n", match->name);',
            'seq_printf(seq, "%s mended\\n", match->name);',
        ),
        "cat /proc/net/ip_tables_matches",
        modules=("ip_tables",),
    ),
)


@dataclass(frozen=True)
class Published:
    """A case's livepatch and the repository that offers it."""

    case: Case
    manifest: Manifest
    module: Path
    repository: str


@dataclass(frozen=True)
class Keys:
    """The publisher's keys, which cannot sign modules, and the operators'."""

    folder: Path
    enrolled: ModuleKey
    stranger: ModuleKey


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("secure-boot-keys") / "keys"
    keyfiles.create(folder, KeyPlan(bin_bits=1, module_key_bits=2048), now=now())
    shutil.rmtree(folder / "module")
    enrolled, stranger = (ModuleKey(*modules.make_key(name, bits=2048, now=now())) for name in (ENROLLED, STRANGER))
    return Keys(folder, enrolled, stranger)


class Host:
    """The locked-down guest with the agent in it."""

    def __init__(self, vm: lab.Vm) -> None:
        self.vm = vm

    def clear(self) -> None:
        """No livepatch, no state."""
        self.vm.sh(
            "cd /sys/kernel/livepatch\n"
            "for p in kmend_*; do [ -d $p ] && echo 0 > $p/enabled; while [ -d $p ]; do sleep 0.1; done; done\n"
            "for m in $(grep -o '^kmend_[^ ]*' /proc/modules); do rmmod $m; done\n"
            "rm -rf /var/lib/kmend /run/kmend; dmesg --clear"
        )

    def use(self, published: Published, signer: str) -> None:
        """From a clear state, with a repository and a signer to use."""
        self.clear()
        for name in published.case.modules:
            self.vm.run(["modprobe", name])
        text = f'[repository]\nurl = "file://{published.repository}"\nsigner = "{signer}"\n[timing]\nremove_after = 1\n'
        self.vm.put_bytes(text.encode(), "/etc/kmend/agent.toml")

    def kmend(self, *words: str, status: int = 0) -> lab.Result:
        """Run the agent and check its exit status."""
        done = self.vm.run([AGENT, *words], check=False, timeout=120)
        assert done.status == status, (words, done.status, done.text, done.error_text)
        return done

    def published_state(self) -> Any:
        """The status document as the last command left it."""
        return json.loads(self.vm.read("/run/kmend/state.json"))

    def mended(self, case: Case) -> bool:
        """Whether the fix shows."""
        return "mended" in self.vm.sh(case.probe).text

    def untouched(self, published: Published) -> None:
        """The kernel has nothing of ours, and the agent is ready for the next try."""
        assert "kmend_" not in self.vm.read("/proc/modules").decode()
        assert not self.mended(published.case)
        document = self.published_state()
        assert document["state"] == "idle"
        assert document["livepatch"] is None


@pytest.fixture(scope="module")
def host(prepared: Kernel, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    ref = KernelRef.parse(prepared.identity.ref)
    assert ref.package is not None
    image = fetch_package(kernel_packages(ref).image, ref.package).path
    agent = tmp_path_factory.mktemp("secure-boot-agent") / "agent"
    run([ROOT / "scripts/agent-tree", agent])
    firmware = lab.SecureBoot((keys.enrolled.certificate.public_bytes(serialization.Encoding.DER),))
    with lab.boot(image, lab.Shape.FULL, firmware=firmware) as vm:
        vm.put(agent, "/opt/kmend")
        vm.put(keys.folder / "root.json", "/etc/kmend/root.json")
        yield Host(vm)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def published(
    request: pytest.FixtureRequest,
    host: Host,
    prepared: Kernel,
    maker: FixMaker,
    keys: Keys,
    tmp_path_factory: pytest.TempPathFactory,
) -> Published:
    case: Case = request.param
    folder = tmp_path_factory.mktemp(f"secure-boot-{case.name}")
    built = build(prepared, [maker.fix(case.edit)])
    write_build(built, folder / "build")
    repository = folder / "repository"
    publisher = Publisher(repository, KeyFolder(keys.folder, lambda path: b""), now=now())
    publisher.publish([read_build(folder / "build")])
    assert not (repository / layout.signature_path(built.manifest.module.sha256)).exists()
    assert publisher.sign_modules(keys.enrolled, "acme") == 1
    assert publisher.sign_modules(keys.stranger, "stranger") == 1
    other = modules.sign_detached(b"something else", keys.enrolled.key, keys.enrolled.certificate)
    (repository / layout.signature_path(built.manifest.module.sha256, "mixed-up")).write_bytes(other)
    target = f"/srv/{case.name}"
    host.vm.put(repository, target)
    return Published(case, built.manifest, folder / "build" / f"{built.manifest.module.name}.ko", target)


def test_lockdown_without_enforced_signatures(kernel: lab.UnpackedKernel, keys: Keys) -> None:
    """Lockdown alone answers EPERM, as to a process without rights; Debian's kernels enforce signatures under Secure Boot too."""
    (path,) = kernel.modules.rglob("dummy.ko")
    module, _ = module_signature.split(path.read_bytes())
    signature = modules.sign_detached(module, keys.stranger.key, keys.stranger.certificate)
    with lab.boot(kernel) as vm:
        vm.put_bytes(module, "/root/unsigned.ko")
        vm.put_bytes(module_signature.join(module, signature), "/root/stranger.ko")
        assert vm.read("/sys/module/module/parameters/sig_enforce") == b"N\n"
        vm.sh("echo integrity > /sys/kernel/security/lockdown")
        for name in ("unsigned", "stranger"):
            refused = vm.run(["insmod", f"/root/{name}.ko"], check=False)
            assert "Operation not permitted" in refused.error_text
        assert "unsigned module loading is restricted" in vm.kernel_log()
        vm.put(path, "/root/as-shipped.ko")
        vm.run(["insmod", "/root/as-shipped.ko"])


def test_the_guest_is_what_it_claims_to_be(host: Host, keys: Keys) -> None:
    assert host.vm.read("/sys/kernel/security/lockdown").decode().strip() == "none [integrity] confidentiality"
    assert host.vm.read(SECURE_BOOT)[4] == 1
    assert host.vm.read("/sys/module/module/parameters/sig_enforce") == b"Y\n"
    platform = [line for line in host.vm.read("/proc/keys").decode().splitlines() if "X509" in line]
    assert any(ENROLLED in line for line in platform)
    assert not any(STRANGER in line for line in platform)


def test_unsigned(host: Host, published: Published) -> None:
    """The agent does not even try; the kernel by itself refuses too."""
    host.use(published, "")
    done = host.kmend("update", status=3)
    assert "this kernel loads only signed modules (Secure Boot" in done.error_text
    assert "kmend-factory keys sign-modules" in done.error_text
    host.vm.put(published.module, "/root/unsigned.ko")
    refused = host.vm.run(["insmod", "/root/unsigned.ko"], check=False)
    assert refused.status == 1
    assert "Key was rejected by service" in refused.error_text
    assert "Loading of unsigned module is rejected" in host.vm.kernel_log()
    host.untouched(published)


def test_signed_with_a_key_that_is_not_enrolled(host: Host, published: Published, keys: Keys) -> None:
    host.use(published, "stranger")
    done = host.kmend("update", status=1)
    assert "the kernel rejects the module's signature" in done.error_text
    serial = f"{keys.stranger.certificate.serial_number:x}"
    assert (
        f"'{STRANGER}' with serial number {serial.zfill(len(serial) + len(serial) % 2)} (EKEYREJECTED)"
        in done.error_text
    )
    assert "mokutil --import" in done.error_text
    assert "Loading of module with unavailable key is rejected" in host.vm.kernel_log()
    host.untouched(published)


@pytest.mark.parametrize("published", CASES[:1], indirect=True, ids=lambda case: case.name)
def test_signature_of_something_else(host: Host, published: Published) -> None:
    """By the enrolled key, but over other bytes: a repository's signatures are not covered by its metadata.

    The kernel answers before it looks at what is patched, so one case is enough.
    """
    host.use(published, "mixed-up")
    done = host.kmend("update", status=1)
    assert f"the kernel rejects the module's signature, which is by the certificate '{ENROLLED}'" in done.error_text
    assert "(EKEYREJECTED)" in done.error_text
    host.untouched(published)


def test_signed_with_the_enrolled_key(host: Host, published: Published) -> None:
    host.use(published, "acme")
    assert not host.mended(published.case)
    host.kmend("update")
    assert host.mended(published.case)
    assert host.published_state()["livepatch"]["module"] == published.manifest.module.name
    tainted = int(host.vm.read("/proc/sys/kernel/tainted"))
    assert not tainted & 1 << 13  # TAINT_UNSIGNED_MODULE
    log = host.vm.kernel_log()
    assert "WARNING" not in log
    assert "BUG" not in log
    host.clear()
    assert not host.mended(published.case)
