"""S3 by Ceph's RADOS gateway: one monitor, one object store in memory, one gateway."""

import http.client
import secrets
import uuid
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from services import s3_client
from services.endpoints import S3Endpoint
from services.errors import ServiceError
from services.ports import LOOPBACK, free_port
from services.process import GuardedProcess, give_to, run_program
from services.programs import need
from services.server import READY_SECONDS, Server

CAPABILITIES = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
    "client.rgw": ["mon", "allow rw", "osd", "allow rwx"],
}
# The parts of Ceph that log the most, to a buffer that nobody reads.
QUIET = ("ms", "osd", "objecter", "rgw", "objclass", "filer", "memstore", "monc", "auth", "mon", "paxos", "rados")


class CephS3Server(Server):
    """`stop`, `kill`, `pause` and `start` mean the gateway; monitor and object store, whose data is in memory, live
    until `close`."""

    name = "s3"
    users: ClassVar[tuple[str, ...]] = ("ceph",)

    def __init__(self, *, certificate: bytes | None = None) -> None:
        super().__init__()
        self._certificate = certificate
        self.tls_endpoint_url = f"https://{LOOPBACK}:{free_port()}"
        self.endpoint = S3Endpoint(
            endpoint_url=f"http://{LOOPBACK}:{free_port()}",
            access_key_id=secrets.token_hex(10).upper(),
            secret_access_key=secrets.token_urlsafe(30),
        )
        self._monitor_port = free_port()

    def prepare(self) -> None:
        here, keyring = self.directory, self.directory / "keyring"
        for name in ("mon", "osd", "rgw", "run"):
            (here / name).mkdir()
            give_to(here / name, self.owner)
        fsid = str(uuid.uuid4())
        self.write("ceph.conf", self._configuration(fsid))
        for index, (entity, capabilities) in enumerate(CAPABILITIES.items()):
            pairs = zip(capabilities[::2], capabilities[1::2], strict=True)
            caps = [part for daemon, capability in pairs for part in ("--cap", daemon, capability)]
            create = ["--create-keyring"] if index == 0 else []
            self._run("ceph-authtool", str(keyring), *create, "--gen-key", "-n", entity, *caps)
        monitor = f"v2:{LOOPBACK}:{self._monitor_port}"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, str(here / "monmap"))
        # A map that knows osd.0 and a keyring that knows everyone, given to the monitor at its birth, spare the slow
        # calls of `ceph osd new`, `auth import` and `osd crush add` afterwards.
        self._run("osdmaptool", "--createsimple", "1", str(here / "osdmap"), "--pg-bits", "3")
        maps = ["--monmap", str(here / "monmap"), "--osdmap", str(here / "osdmap"), "--keyring", str(keyring)]
        self._run("ceph-mon", *self._conf, "-i", "a", "--mkfs", *maps)
        self._daemon("ceph-mon", "-i", "a").start()
        self._run("ceph-osd", *self._conf, "-i", "0", "--mkfs", "--osd-uuid", str(uuid.uuid4()))
        self._daemon("ceph-osd", "-i", "0").start()
        # Before the gateway: both create pools and the default zone, and disturb each other at it.
        keys = [f"--access-key={self.endpoint.access_key_id}", f"--secret-key={self.endpoint.secret_access_key}"]
        account = ["--uid=specstar", "--display-name=specstar", "--max-buckets=0"]
        self._run("radosgw-admin", *self._conf, "-n", "client.rgw", "user", "create", *account, *keys)
        self._daemon("radosgw", "-n", "client.rgw")

    def settle(self) -> None:
        s3_client.create_bucket(self.endpoint, self.endpoint.bucket)

    def ready(self) -> bool:
        address = urlsplit(self.endpoint.endpoint_url)
        connection = http.client.HTTPConnection(address.hostname or LOOPBACK, address.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _conf(self) -> tuple[str, str]:
        return "-c", str(self.directory / "ceph.conf")

    def _daemon(self, program: str, *arguments: str) -> GuardedProcess:
        return self.guarded([need(program), *self._conf, "-f", *arguments], name=program)

    def _run(self, program: str, *arguments: str) -> None:
        try:
            run_program([need(program), *arguments], directory=self.directory, owner=self.owner, timeout=READY_SECONDS)
        except ServiceError as error:
            tails = "\n".join(daemon.tail() for daemon in self._processes)
            raise ServiceError(f"{error}\n{tails}") from error

    def _tls(self) -> str:
        if self._certificate is None:
            return ""
        file = self.write("server.pem", self._certificate)
        return f" ssl_endpoint={urlsplit(self.tls_endpoint_url).netloc} ssl_certificate={file} ssl_private_key={file}"

    def _configuration(self, fsid: str) -> str:
        here = self.directory
        classes = next((path.parent for path in Path("/usr/lib").glob("**/rados-classes/libcls_rgw.so")), None)
        if classes is None:
            raise ServiceError("libcls_rgw.so, which comes with the package ceph-osd, is not under /usr/lib")
        quiet = "\n".join(f"debug {name} = 0/0" for name in QUIET)
        return f"""[global]
fsid = {fsid}
mon host = v2:{LOOPBACK}:{self._monitor_port}
mon initial members = a
public addr = {LOOPBACK}
cluster addr = {LOOPBACK}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
# All is on one machine and gone with the tests: no signatures, checksums of messages or debug logs, which take a fifth of
# the processor time of a request.
cephx sign messages = false
ms crc data = false
ms crc header = false
{quiet}
keyring = {here}/keyring
paxos propose interval = 0.05
paxos min wait = 0.02
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
osd objectstore = memstore
memstore device bytes = 8589934592
# A killed gateway is forgotten after 4 s instead of 30; until then changes to buckets wait for its answer.
osd client watch timeout = 4
objecter tick interval = 1
osd class dir = {classes}
run dir = {here}/run
admin socket =
log file = {here}/$name.ceph.log
mon cluster log file = {here}/cluster.ceph.log
mon data = {here}/mon
osd data = {here}/osd
rgw data = {here}/rgw
[client.rgw]
rgw frontends = beast endpoint={urlsplit(self.endpoint.endpoint_url).netloc}{self._tls()}
# Deleted data leaves memory at once, not after two hours.
rgw gc obj min wait = 1
rgw gc processor period = 10
rgw override bucket index max shards = 1
"""
