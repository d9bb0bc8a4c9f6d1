"""Ports for programs that cannot be told to take any."""

import socket


class FreePort:
    """A port that nobody gets who asks the kernel for any: a socket of this process stays bound to it. A
    server that is told to can listen there all the same, since both sides set SO_REUSEADDR and this one
    never listens (ip(7), socket(7))."""

    def __init__(self):
        self.holder = socket.socket()
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.holder.bind(("127.0.0.1", 0))
        self.number = self.holder.getsockname()[1]

    def close(self):
        self.holder.close()
