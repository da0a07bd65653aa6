"""The network proxy against a server that echoes: each command does what it says, and nothing else is touched."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from proxist.errors import Unavailable
from proxist.etcd import EtcdClient
from proxist.testing.etcd import LocalEtcd
from proxist.testing.network_proxy import NetworkProxy, Way

WAIT_S = 10.0


class EchoServer:
    """Sends back what it gets, and remembers whether it saw the end of a stream."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.ends: list[bytes] = []
        self.ended = threading.Condition()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)

    def wait_ends(self, count: int) -> None:
        with self.ended:
            assert self.ended.wait_for(lambda: len(self.ends) >= count, WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(one,))
            self._threads.append(thread)
            thread.start()

    def _echo(self, one: socket.socket) -> None:
        got, how = b"", b"eof"
        with one:
            try:
                while data := one.recv(65536):
                    got += data
                    one.sendall(data)
                one.sendall(b"bye")
            except OSError:
                how = b"reset"
        with self.ended:
            self.ends.append(how)
            self.ended.notify_all()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    running = EchoServer()
    yield running
    running.close()


@pytest.fixture
def network(server: EchoServer) -> Iterator[NetworkProxy]:
    with NetworkProxy(server.address) as running:
        yield running


def dial(network: NetworkProxy) -> socket.socket:
    host, _, port = network.address.partition(":")
    return socket.create_connection((host, int(port)), WAIT_S)


def read(one: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (data := one.recv(count - len(got))):
        got += data
    return got


def test_what_passes_passes_byte_for_byte(network: NetworkProxy) -> None:
    sent = bytes(range(256)) * 20_000
    with dial(network) as one:
        sender = threading.Thread(target=one.sendall, args=(sent,))
        sender.start()
        assert read(one, len(sent)) == sent
        sender.join(WAIT_S)
        assert network.connections == 1
    assert (network.bytes[Way.TO_SERVER], network.bytes[Way.TO_CLIENT]) >= (len(sent), len(sent))


def test_a_delay_holds_each_byte_for_so_long(network: NetworkProxy) -> None:
    with dial(network) as one:
        network.delay(0.1, Way.TO_CLIENT)
        began_s = time.monotonic()
        one.sendall(b"one")
        assert read(one, 3) == b"one"
        assert time.monotonic() - began_s >= 0.1
        network.delay(0.0)
        one.sendall(b"two")
        assert read(one, 3) == b"two"


def test_a_stalled_way_moves_nothing_and_loses_nothing(network: NetworkProxy) -> None:
    with dial(network) as one:
        one.sendall(b"a")
        assert read(one, 1) == b"a"
        network.stall(Way.TO_CLIENT)
        before = network.bytes[Way.TO_SERVER]
        one.sendall(b"more")
        deadline = time.monotonic() + WAIT_S
        while network.bytes[Way.TO_SERVER] < before + 4:
            assert time.monotonic() < deadline, "the other way does not move"
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(WAIT_S)
        network.flow()
        assert read(one, 4) == b"more"


def test_a_cut_resets_every_connection_and_new_ones_are_taken(network: NetworkProxy, server: EchoServer) -> None:
    with dial(network) as one, dial(network) as other:
        for each in (one, other):
            each.sendall(b"x")
            assert read(each, 1) == b"x"
        assert network.cut() == 2
        for each in (one, other):
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    server.wait_ends(2)
    assert server.ends == [b"reset", b"reset"]
    with dial(network) as again:
        again.sendall(b"y")
        assert read(again, 1) == b"y"


def test_a_half_closed_way_ends_for_its_receiver_and_the_other_goes_on(
    network: NetworkProxy, server: EchoServer
) -> None:
    with dial(network) as one:
        one.sendall(b"x")
        assert read(one, 1) == b"x"
        network.half_close(Way.TO_SERVER)
        server.wait_ends(1)
        assert server.ends == [b"eof"]
        assert read(one, 3) == b"bye"


def test_a_cut_behind_so_many_bytes_comes_in_the_middle(network: NetworkProxy, server: EchoServer) -> None:
    with dial(network) as one:
        network.cut_after(1_000, Way.TO_SERVER)
        one.sendall(b"z" * 5_000)
        server.wait_ends(1)
        assert server.ends == [b"reset"]
        assert network.bytes[Way.TO_SERVER] == 1_000


def test_who_is_refused_is_reset_and_open_connections_stay(network: NetworkProxy) -> None:
    with dial(network) as open_before:
        open_before.sendall(b"x")
        assert read(open_before, 1) == b"x"
        network.refuse()
        with pytest.raises(ConnectionResetError), dial(network) as refused:
            refused.recv(1)
        open_before.sendall(b"y")
        assert read(open_before, 1) == b"y"
        network.accept()
        with dial(network) as taken:
            taken.sendall(b"z")
            assert read(taken, 1) == b"z"


def test_the_end_of_a_stream_reaches_the_other_side(network: NetworkProxy, server: EchoServer) -> None:
    with dial(network) as one:
        one.sendall(b"last")
        one.shutdown(socket.SHUT_WR)
        assert read(one, 10) == b"lastbye"
    server.wait_ends(1)
    assert server.ends == [b"eof"]


def test_a_client_behind_a_silent_network_gets_a_typed_error_and_goes_on_when_it_is_back() -> None:
    with (
        LocalEtcd() as etcd,
        NetworkProxy(etcd.address) as network,
        EtcdClient([network.address], timeout_s=0.5) as client,
    ):
        client.put("/a", b"1")
        network.stall()
        with pytest.raises(Unavailable):
            client.get("/a")
        network.flow()
        found = client.get("/a")
        assert found is not None
        assert found.value == b"1"
