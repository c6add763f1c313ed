import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from flowd.sdnotify import Notifier
from tests.supervisor.harness import notify_socket, short_directory


def test_every_notification_is_a_datagram_of_its_own():
    with short_directory() as short, notify_socket(short) as manager:
        notifier = Notifier(str(short / "notify"))
        notifier.ready()
        notifier.status("two\nlines")
        notifier.alive()
        notifier.extend_timeout(1.5)
        notifier.stopping()
        assert [manager.recv(100) for _ in range(5)] == [
            b"READY=1",
            b"STATUS=two lines",
            b"WATCHDOG=1",
            b"EXTEND_TIMEOUT_USEC=1500000",
            b"STOPPING=1",
        ]


def test_an_abstract_socket_is_reached_too():
    name = f"flowd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.setblocking(False)
        Notifier("@" + name).ready()
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_happens():
    notifier = Notifier.from_environment({}, 1)
    notifier.ready()
    assert notifier.watchdog_seconds is None


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path):
    Notifier(str(tmp_path / "gone")).ready()


def test_a_manager_that_reads_nothing_stops_nothing():
    with short_directory() as short, notify_socket(short) as manager:
        notifier = Notifier(str(short / "notify"))
        for _ in range(1_000):
            notifier.alive()
        assert manager.recv(100) == b"WATCHDOG=1"


def test_what_is_said_only_once_waits_for_a_manager_that_is_busy():
    with short_directory() as short, notify_socket(short) as manager:
        notifier = Notifier(str(short / "notify"))
        for _ in range(1_000):
            notifier.alive()
        threading.Timer(0.1, manager.recv, (100,)).start()
        notifier.ready()
        seen = []
        with contextlib.suppress(BlockingIOError):
            while True:
                seen.append(manager.recv(100))
        assert seen[-1] == b"READY=1"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "7"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "8"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_read_from_the_environment(environ: dict[str, str], seconds: float | None):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify"} | environ, 7)
    assert notifier.watchdog_seconds == seconds


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1"])
def test_an_address_that_is_no_unix_socket_is_not_used(address: str):
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    notifier = Notifier.from_environment(environ, 7)
    notifier.ready()
    assert notifier.watchdog_seconds is None
