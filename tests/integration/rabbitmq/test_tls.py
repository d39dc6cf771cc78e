"""amqps, with a broker that has a certificate and asks its clients for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import services
from specstar.errors import BackendError, BackendUnavailable, ConfigError
from tests.integration.certificates import Authority
from tests.integration.rabbitmq.rig import message, open_rig, take_and_ack

pytestmark = pytest.mark.xdist_group("rabbitmq-tls")


@dataclass
class Broker:
    """A broker that speaks TLS only with clients whose certificate it knows, and files to name in its URL."""

    server: services.RabbitMQServer
    files: Path

    def url(self, *, cafile: str = "authority.pem", certfile: str | None = "client.pem", keyfile: str = "") -> str:
        client = f"&certfile={self.files / certfile}" if certfile else ""
        key = f"&keyfile={self.files / keyfile}" if keyfile else ""
        return f"{self.server.tls_url}?cafile={self.files / cafile}{client}{key}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    ours, stranger = Authority(), Authority()
    files = tmp_path_factory.mktemp("tls")
    (files / "authority.pem").write_bytes(ours.certificate)
    (files / "strange-authority.pem").write_bytes(stranger.certificate)
    for name, issuer in (("client", ours), ("stranger", stranger)):
        certificate, key = issuer.issue(name)
        (files / f"{name}.pem").write_bytes(certificate + key)
        (files / f"{name}.crt").write_bytes(certificate)
        (files / f"{name}.key").write_bytes(key)
    (files / "garbage.pem").write_text("no certificate")
    settings = {"ssl_options.verify": "verify_peer", "ssl_options.fail_if_no_peer_cert": "true"}
    certificate, key = ours.issue("server")
    with services.rabbitmq(settings=settings, certificate=certificate + key + ours.certificate) as server:
        yield Broker(server, files)


@pytest.mark.parametrize("files", [{}, {"certfile": "client.crt", "keyfile": "client.key"}])
async def test_messages_of_any_size_travel_and_a_broken_connection_is_made_again(
    broker: Broker, queue_prefix: str, files: dict[str, str]
) -> None:
    async with open_rig(broker.url(**files), queue_prefix) as rig:
        queue = rig.queue()
        sizes = [*range(0, 200_000, 5000), 3_000_000]
        for _ in range(2):
            sent = [message(number, body=b"x" * size) for number, size in enumerate(sizes)]
            await asyncio.gather(*(queue.publish(item) for item in sent))
            async with queue.consume(prefetch=50) as consumer:
                got = await take_and_ack(consumer, len(sizes))
            assert sorted(len(item.body) for item in got) == sizes
            secure = await asyncio.to_thread(broker.server.ctl, "list_connections", "ssl")
            assert set(secure.split()) == {"ssl", "true"}
            await asyncio.to_thread(broker.server.ctl, "close_all_connections", "by a test")


async def test_a_broker_that_is_not_trusted_is_refused_with_the_reason(broker: Broker, queue_prefix: str) -> None:
    for url, reason in (
        (broker.url(cafile="strange-authority.pem"), "CERTIFICATE_VERIFY_FAILED"),
        (broker.url().replace("@127.0.0.1", "@localhost"), "not valid for 'localhost'"),
    ):
        async with open_rig(url, queue_prefix, keep=True) as rig:
            with pytest.raises(BackendError, match=f"{reason}.*check scheme, port and cafile") as caught:
                await rig.queue().publish(message(1))
            assert not isinstance(caught.value, BackendUnavailable)
            assert broker.server.endpoint.password not in str(caught.value)


@pytest.mark.parametrize("certfile", ["stranger.pem", None])
async def test_a_client_that_the_broker_does_not_know_is_told_what_to_check(
    broker: Broker, queue_prefix: str, certfile: str | None
) -> None:
    """Whether it reads the broker's reason or only that it was cut off."""
    async with open_rig(broker.url(certfile=certfile), queue_prefix, keep=True) as rig:
        with pytest.raises(BackendError, match="certfile and keyfile in amqp_url"):
            await rig.queue().publish(message(1))


async def test_tls_without_amqps_is_told_what_to_check(broker: Broker, queue_prefix: str) -> None:
    async with open_rig(broker.server.tls_url.replace("amqps", "amqp"), queue_prefix, keep=True) as rig:
        with pytest.raises(BackendError, match="amqps://") as caught:
            await rig.queue().publish(message(1))
        assert not isinstance(caught.value, BackendUnavailable)


async def test_files_that_cannot_be_used_are_named(broker: Broker, queue_prefix: str) -> None:
    for url, reason in (
        (broker.url(cafile="none.pem"), "file that cafile of amqp_url names cannot be read"),
        (broker.url(cafile="."), "file that cafile of amqp_url names cannot be read"),
        (broker.url(certfile="none.pem"), "file that certfile of amqp_url"),
        (broker.url(keyfile="none.pem"), "file that keyfile of amqp_url"),
        (broker.url(cafile="garbage.pem"), "cafile, certfile and keyfile of amqp_url name cannot be used"),
        (broker.url(certfile="client.crt"), "cafile, certfile and keyfile of amqp_url name cannot be used"),
        (broker.url(keyfile="stranger.key"), "KEY_VALUES_MISMATCH"),
    ):
        async with open_rig(url, queue_prefix, keep=True) as rig:
            with pytest.raises(ConfigError, match=reason):
                await rig.queue().publish(message(1))
