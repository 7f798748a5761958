"""A server that never stops talking: `talk.py <address> <port>`; a byte each twentieth second."""

import socket
import sys
import threading
import time


def talk(connection: socket.socket) -> None:
    try:
        while True:
            connection.send(b"x")
            time.sleep(0.05)
    except OSError:
        connection.close()


address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.create_server((address, port), family=family, dualstack_ipv6=address == "::") as server:
    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
