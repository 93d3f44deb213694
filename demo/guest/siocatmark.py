"""CVE-2026-52928 as an unprivileged program sees it: SIOCATMARK on Unix sockets of each type. Prints one word a type."""

import errno
import fcntl
import socket

SIOCATMARK = 0x8905

for name, kind in (
    ("datagram", socket.SOCK_DGRAM),
    ("seqpacket", socket.SOCK_SEQPACKET),
    ("stream", socket.SOCK_STREAM),
):
    first, second = socket.socketpair(socket.AF_UNIX, kind)
    with first, second:
        try:
            fcntl.ioctl(first, SIOCATMARK, b"\0\0\0\0")
            answer = "answered"
        except OSError as problem:
            # Python knows the number under its other name, ENOTSUP.
            answer = "EOPNOTSUPP" if problem.errno == errno.EOPNOTSUPP else errno.errorcode[problem.errno or 0]
    print(f"{name}={answer}")
