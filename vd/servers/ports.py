"""A port for a server that is started here."""

import socket


def free_port():
    """One of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
