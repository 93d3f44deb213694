"""CVE-2026-68386: put an unbound UDP socket, and then a bound one, into a BPF sockmap. Needs root; prints one word each."""

import ctypes
import errno
import socket
import struct

SYS_BPF = 321
BPF_MAP_CREATE, BPF_MAP_UPDATE_ELEM = 0, 2
BPF_MAP_TYPE_SOCKMAP = 15

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, 120)
    result: int = libc.syscall(SYS_BPF, command, buffer, 120)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode[number])
    return result


table = bpf(BPF_MAP_CREATE, struct.pack("IIII", BPF_MAP_TYPE_SOCKMAP, 4, 4, 1))
for name, bound in (("unbound", False), ("bound", True)):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if bound:
            sock.bind(("127.0.0.1", 0))
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(sock.fileno())
        try:
            bpf(BPF_MAP_UPDATE_ELEM, struct.pack("IIQQQ", table, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
            print(f"{name}=accepted")
        except OSError as problem:
            # Python knows the number under its other name, ENOTSUP.
            answer = "EOPNOTSUPP" if problem.errno == errno.EOPNOTSUPP else errno.errorcode[problem.errno or 0]
            print(f"{name}={answer}")
