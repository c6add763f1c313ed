import socket
import threading

import pytest

from flowd.config import Config
from flowd.errors import ConfigError, FlowdError
from flowd.listen import check_listen, open_listener


@pytest.mark.parametrize(
    ("listen", "prefix"),
    [
        ("127.0.0.1:0", "127.0.0.1:"),
        ("127.9.9.9:0", "127.9.9.9:"),
        ("[::1]:0", "[::1]:"),
    ],
)
def test_a_free_port_is_taken_and_told(listen: str, prefix: str):
    listener = open_listener(Config(listen=listen))
    host, _, port = listener.address.rpartition(":")
    assert listener.address.startswith(prefix)
    assert listener.is_loopback
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        pass
    listener.close()


def test_a_name_is_looked_up():
    listener = open_listener(Config(listen="localhost:0"))
    assert listener.is_loopback
    listener.close()


def test_an_address_in_use_is_a_failure_that_may_pass():
    listener = open_listener(Config(listen="127.0.0.1:0"))
    with pytest.raises(FlowdError, match=r"cannot listen on .*: Address already in use") as refusal:
        open_listener(Config(listen=listener.address), patience_seconds=0.1)
    assert not isinstance(refusal.value, ConfigError)
    listener.close()


def test_an_address_that_is_given_up_in_time_is_taken():
    listener = open_listener(Config(listen="127.0.0.1:0"))
    address = listener.address
    threading.Timer(0.1, listener.close).start()
    again = open_listener(Config(listen=address))
    assert again.address == address
    again.close()


def test_an_address_that_is_not_ours_is_refused_at_once():
    with pytest.raises(FlowdError, match="Cannot assign requested address"):
        open_listener(Config(listen="192.0.2.1:0", insecure=True), patience_seconds=3_600)


def test_the_port_is_free_again_at_once_although_connections_linger():
    listener = open_listener(Config(listen="127.0.0.1:0"))
    host, port = listener.socket.getsockname()
    client = socket.create_connection((host, port), timeout=5)
    listener.socket.setblocking(True)
    accepted, _ = listener.socket.accept()
    accepted.close()  # the side that closes first keeps the address
    client.close()
    listener.close()
    again = open_listener(Config(listen=f"{host}:{port}"))
    assert again.address == f"{host}:{port}"
    again.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"])
def test_other_addresses_than_loopback_need_insecure(listen: str):
    with pytest.raises(ConfigError, match=r"not a loopback address.*--insecure"):
        check_listen(Config(listen=listen))
    assert not check_listen(Config(listen=listen, insecure=True))[2]


def test_insecure_listens_to_everybody_and_says_so():
    listener = open_listener(Config(listen="0.0.0.0:0", insecure=True))
    assert not listener.is_loopback
    listener.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example"])
def test_a_name_that_nobody_knows_is_a_failure(host: str):
    with pytest.raises(FlowdError, match=f"{host} cannot be looked up"):
        check_listen(Config(listen=f"{host}:0"))
