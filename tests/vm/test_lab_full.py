"""Full guests: a Debian with systemd, its disk, its network, and cuts of its power."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kmend import lab
from kmend.lab import channel

ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every request with its own path, a thousand times over."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode() * 1000)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guest(kernel: lab.UnpackedKernel, server: int) -> Iterator[lab.Vm]:
    with lab.boot(kernel, lab.Shape.FULL, network=lab.Network(to_host=(server,), to_guest=(7000,))) as vm:
        yield vm


def test_systemd_starts_everything(guest: lab.Vm) -> None:
    assert guest.wait_settled() == "running", guest.sh("systemctl --failed").text


def test_modules_can_be_loaded(guest: lab.Vm, kernel: lab.UnpackedKernel) -> None:
    guest.run(["modprobe", "tls"])
    assert "tls " in guest.read("/proc/modules").decode()
    assert kernel.release in guest.run(["modinfo", "-n", "tls"]).text


def test_the_guest_reaches_the_granted_port_of_the_host(guest: lab.Vm, server: int) -> None:
    script = (
        "import urllib.request, concurrent.futures as c\n"
        f"def get(n): return urllib.request.urlopen('http://{lab.HOST_ADDRESS}:{server}/%d' % n, timeout=20).read()\n"
        "with c.ThreadPoolExecutor(8) as pool: got = list(pool.map(get, range(40)))\n"
        "assert got == [b'/%d' % n * 1000 for n in range(40)]\n"
        "print('all')"
    )
    assert guest.run(["python3", "-c", script]).text == "all\n"


def test_the_guest_reaches_nothing_else(guest: lab.Vm, server: int) -> None:
    for address in (("10.0.2.2", server), (lab.HOST_ADDRESS, server + 1), ("192.0.2.1", 80)):
        script = f"import socket; socket.create_connection({address!r}, 2)"
        assert guest.run(["python3", "-c", script], check=False).status == 1


def test_a_connection_into_the_guest_every_10_ms(guest: lab.Vm) -> None:
    guest.put_bytes(ECHO.encode(), "/opt/echo.py")
    echo = guest.start_command(["python3", "/opt/echo.py"])
    echo.wait_for(b"listening\n", 30)
    with socket.create_connection(("127.0.0.1", guest.host_port(7000)), 10) as connection:
        connection.settimeout(10)
        for number in range(100):
            message = b"%8d" % number
            connection.sendall(message)
            assert connection.recv(8) == message
            time.sleep(0.01)
        assert guest.sh("echo meanwhile").text == "meanwhile\n"
    assert echo.wait(10).status == 0


def test_a_background_command_outlives_others(guest: lab.Vm) -> None:
    background = guest.start_command(["sh", "-c", "while :; do echo tick; sleep 0.1; done"])
    background.wait_for(b"tick\n", 20)
    assert [guest.run(["printf", "%d", str(n)]).text for n in range(5)] == ["0", "1", "2", "3", "4"]
    before = background.stdout
    background.wait_for(before + b"tick\n", 20)
    assert background.kill().status == 137


def test_power_cut_panic_and_clean_shutdown_keep_the_disk(
    kernel: lab.UnpackedKernel, guest: lab.Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.boot(kernel, lab.Shape.FULL) as vm:
        machine, boot = vm.read("/etc/machine-id"), vm.boot_id
        vm.sh("echo durable > /root/synced && sync /root/synced /root && echo lost > /root/unsynced")
        vm.power_cut()
        assert not vm.running
        vm.start()
        assert vm.boot_id != boot
        assert vm.read("/etc/machine-id") == machine
        assert vm.read("/root/synced") == b"durable\n"
        assert vm.sh("cat /root/unsynced", check=False).stdout != b"lost\n"

        with pytest.raises(lab.PanicError, match="sysrq triggered crash"):
            vm.sh("echo c > /proc/sysrq-trigger")
        vm.start()
        assert vm.read("/root/synced") == b"durable\n"
        vm.sh("echo written > /root/unsynced")
        vm.power_off()
        vm.start()
        assert vm.read("/root/unsynced") == b"written\n"
        assert guest.sh("ls /root/unsynced", check=False).status != 0  # another guest has a disk of its own

        monkeypatch.setattr(channel, "KILL_GRACE", 1.0)
        with pytest.raises(lab.GuestLostError, match="does not answer"):  # not a panic: only the runner is gone
            vm.sh("kill -9 $(pidof runner)", timeout=10)
