"""The long-running service of the demonstration: answers every message on one TCP connection with the same bytes."""

import socket
import sys

with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while message := connection.recv(64):
        connection.sendall(message)
