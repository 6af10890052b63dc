"""Cuts the network of every Python process of the tests, as if the cable were pulled.

Python imports a module of this name when it starts; conftest.py puts its folder into PYTHONPATH, so
that kernels, workers and commands are cut off as well. This machine itself can be reached.
"""

import errno
import ipaddress
import socket


def _is_own_name(host: object) -> bool:
    return not isinstance(host, str) or host in ("", "localhost", socket.gethostname())


def _address(host: str):
    """The numbers of an address; None for a name, which somebody else would have to look up."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_here(host: object) -> bool:
    if _is_own_name(host):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _guarded(method):
    def connect(self, address):
        if self.family != socket.AF_UNIX and not _is_here(address[0]):
            raise OSError(errno.ENETUNREACH, f"the tests have no network: {address[0]}")
        return method(self, address)

    return connect


def _looked_up(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if not _is_own_name(name) and _address(name) is None:
        raise socket.gaierror(socket.EAI_NONAME, f"the tests have no network: {name}")
    return _lookup(host, *args, **kwargs)


_lookup = socket.getaddrinfo
if getattr(socket, "cut", False) is False:
    socket.cut = True
    socket.getaddrinfo = _looked_up
    socket.socket.connect = _guarded(socket.socket.connect)
    socket.socket.connect_ex = _guarded(socket.socket.connect_ex)
