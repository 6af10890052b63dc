"""The tests run as on a machine without a network; so nothing they cover needs one."""

import errno
import multiprocessing
import socket
import subprocess
import sys

import pytest
import requests

ELSEWHERE = "192.0.2.1"  # kept free for documents


def refused() -> str:
    """What becomes of a connection to another machine."""
    try:
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "connected"


def test_no_other_machine_can_be_reached() -> None:
    assert refused() == "ENETUNREACH"
    with pytest.raises(socket.gaierror, match=r"the tests have no network: example\.com"):
        socket.getaddrinfo("example.com", 80)
    with pytest.raises(requests.ConnectionError):
        requests.get("https://example.com", timeout=1)


def test_commands_and_workers_cannot_reach_one_either() -> None:
    code = f"import socket; socket.create_connection(('{ELSEWHERE}', 80), 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the tests have no network" in done.stderr
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(refused) == "ENETUNREACH"


def test_this_machine_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"here")
        assert accepted.recv(4) == b"here"
