"""Servers that are started have a key, which this user alone can read; what is open is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import psutil
import pytest
import yaml
from pydantic import ValidationError

from aspo_megatron.config import ServersConfig
from aspo_megatron.errors import UserError
from aspo_megatron.launch.addresses import in_url, is_loopback
from aspo_megatron.launch.loopback import loopback_interface
from aspo_megatron.rollout import client
from aspo_megatron.rollout.build import open_doors
from aspo_megatron.rollout.client import ServerClient, ServerError
from aspo_megatron.rollout.sglang.command import ServedModel
from aspo_megatron.rollout.sglang.environment import server_environment
from aspo_megatron.rollout.sglang.local_servers import LocalServers, _answers
from aspo_megatron.rollout.sglang.server_key import key_for_own_servers, read_api_key

MODEL = ServedModel(Path("/models/m"), "bfloat16", random=False)
HERE = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "LocalHost", "::1", "[::1]", "0:0:0:0:0:0:0:1"),
    *("::ffff:127.0.0.1", "[::ffff:127.9.9.9]", "http://127.0.0.1:30000", "https://localhost:1", "http://[::1]:30000"),
    *("http://[::ffff:127.0.0.1]:3", "http://user@127.0.0.1:3/path?127.0.0.1"),
    *("127.1", "127.0.1", "0x7f.1", "0X7F.0.0.1", "0177.0.0.1", "2130706433", "0x7f000001", "::ffff:7f00:1"),
    *("http://127.1:30000", "http://0x7f.1"),
)
ELSEWHERE = (
    *("127.0.0.1.example.com", "localhost.example.com", "127.example.com", "127.", "::1234", "::10", "::1.example.com"),
    *(
        "http://127.x.example.com:3",
        "http://localhost.example.com",
        "http://127.0.0.1@example.com",
        "http://[::1234]:3",
    ),
    *("http://example.com/127.0.0.1", "http://example.com#@127.0.0.1", "http://127.0.0.1\\@example.com", "http://[::1"),
    *("0.0.0.0", "::", "10.0.0.7", "128.0.0.1", "1127.0.0.1", "::ffff:10.0.0.7", "::ffff:0:127.0.0.1", "", "http://"),
    *("127.0.0.1 ", "\u0661\u0662\u0667.\u0660.\u0660.\u0661", "localhost.localdomain"),
    *("127", "0127.1", "127..1", "+127.1", " 127.1", "127.1 x", "127.1.example.com", "127.0.0.256", "0", "0x7f.1\0"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "\uff11\uff12\uff17.1", "127.0.0.1\n", "http://127.1.example.com"),
    *("xlocalhost", "http://:30000", "127.0.0.1:30000", "node7"),
)


@pytest.mark.parametrize("address", HERE)
def test_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_others(address: str) -> None:
    assert not is_loopback(address)


def test_an_address_with_colons_is_in_brackets_in_a_url() -> None:
    assert [in_url(host) for host in ("::1", "127.0.0.1", "node7")] == ["[::1]", "127.0.0.1", "node7"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, []),
        ({"host": "0.0.0.0"}, []),
        ({"addresses": ("http://127.0.0.1:1",)}, ["http://127.0.0.1:1 may be used by every user of this machine"]),
        ({"addresses": ("http://node7:1",)}, ["http://node7:1 may be used by whoever reaches it from another machine"]),
        ({"addresses": ("http://localhost.example.com:1",)}, ["http://localhost.example.com:1 may be used by whoever"]),
        ({"addresses": ("http://node7:1", "http://[::1]:1"), "api_key_file": Path("key")}, []),
    ],
)
def test_open_servers_are_said(settings: dict[str, object], said: list[str]) -> None:
    found = open_doors(ServersConfig.model_validate(settings))
    assert len(found) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(found, said, strict=True))


def test_a_key_is_made_once_for_a_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key, path = key_for_own_servers(ServersConfig(), tmp_path)
    finally:
        os.umask(before)
    assert len(set(key)) > 5
    assert len(key) == 64
    assert path.parent == tmp_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_for_own_servers(ServersConfig(), tmp_path) == (key, path)
    assert read_api_key(ServersConfig(api_key_file=path)) == key
    (tmp_path / "other").mkdir()
    assert key_for_own_servers(ServersConfig(), tmp_path / "other")[0] != key


def linked(path: Path, known: Path) -> None:
    path.symlink_to(known)


def of_two_names(path: Path, known: Path) -> None:
    os.link(known, path)


def with_mode(mode: int) -> Callable[[Path, Path], None]:
    def put(path: Path, known: Path) -> None:
        path.write_bytes(known.read_bytes())
        path.chmod(mode)

    return put


def short(path: Path, known: Path) -> None:
    path.write_text("")
    path.chmod(0o600)


PUT: dict[str, Callable[[Path, Path], None]] = {
    "a link": linked,
    "a second name": of_two_names,
    "somebody else's": with_mode(0o600),
    "an empty one": short,
    **{f"mode {mode:o}": with_mode(mode) for mode in (0o644, 0o640, 0o660, 0o666, 0o604, 0o620, 0o602, 0o777)},
}


@pytest.mark.parametrize("put", PUT)
def test_a_key_that_others_may_know_is_replaced(tmp_path: Path, put: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if put == "somebody else's":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    known = tmp_path / "known"
    known.write_text("k" * 64)
    known.chmod(0o600)
    folder = tmp_path / "logs"
    folder.mkdir()
    PUT[put](folder / "servers.key", known)
    key, path = key_for_own_servers(ServersConfig(), folder)
    assert key != "k" * 64
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert path.lstat().st_uid == os.getuid()
    assert known.read_text() == "k" * 64


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"one\ntwo", b"a\rb", b"a\x00b", b"a\x1bb", "clé".encode(), b"\xff\xfe", b"a\x7f", b"k" * 100_000],
    ids=["empty", "blank", "two lines", "return", "zero", "escape", "accent", "bytes", "delete", "huge"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match=r"^rollout\.servers\.api_key_file: .*key.*") as said:
        read_api_key(ServersConfig(api_key_file=tmp_path / "key"))
    assert "\n" not in str(said.value)


def test_a_key_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "pipe", "."):
        with pytest.raises(UserError, match=r"^rollout\.servers\.api_key_file: "):
            read_api_key(ServersConfig(api_key_file=tmp_path / name))


@pytest.mark.timeout(60)
def test_every_server_has_a_key_that_nobody_sees(tmp_path: Path) -> None:
    """This Python has no SGLang: it shows its settings, and stays to be looked at."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --config ]; do shift; done\nexec {sys.executable} -c \''
        'import sys, time; print(open(sys.argv[1]).read(), flush=True); time.sleep(60)\' "$2"\n'
    )
    python.chmod(0o755)
    logs = tmp_path / "logs"
    before = psutil.Process().children(recursive=True)
    with LocalServers(ServersConfig(python=python, count=2), MODEL, "cpu", logs, print) as servers:
        while not all((logs / f"server{n}.log").exists() and (logs / f"server{n}.log").read_text() for n in range(2)):
            time.sleep(0.05)
        assert yaml.safe_load((logs / "server0.log").read_text()) == {"api-key": servers.api_key}
        assert (logs / "server0.log").read_text() == (logs / "server1.log").read_text()
        started = [one for one in psutil.Process().children(recursive=True) if one not in before]
        seen = [word for one in started for word in (*one.cmdline(), *one.environ().values())]
        assert any(str(python) in word for word in seen) or any("time.sleep(60)" in word for word in seen)
        assert not any(servers.api_key in word for word in seen)
        settings = {Path(word) for word in seen if word.endswith(".yaml")}
        for path in (*settings, servers.key_file, logs / "server0.log", logs / "server1.log"):
            assert path.stat().st_mode & 0o077 == 0
        assert len(settings) == 1
    assert not any(path.exists() for path in settings)


@pytest.mark.parametrize(
    ("words", "option", "key"),
    [
        (["--api-key", "mine"], "--api-key", "api_key_file"),
        (["--api-key=mine"], "--api-key", "api_key_file"),
        (["--enable-metrics", "--api-k", "mine"], "--api-key", "api_key_file"),
        (["--api_key", "mine"], "--api-key", "api_key_file"),
        (["--host", "0.0.0.0"], "--host", "host"),
        (["--host=0.0.0.0"], "--host", "host"),
        (["--hos", "0.0.0.0"], "--host", "host"),
        (["--port=3"], "--port", "port"),
        (["--config", "settings.yaml"], "--config", "words"),
    ],
)
def test_what_a_run_sets_itself_is_no_further_argument(words: list[str], option: str, key: str) -> None:
    with pytest.raises(ValidationError, match=rf"extra_args: {option}: .*{key}"):
        ServersConfig.model_validate({"extra_args": words})


def test_other_further_arguments() -> None:
    words = ["--context-length", "4096", "--quantization=fp8", "--enable-metrics", "--host-cache", "-1", "--", "mine"]
    words += ["--admin-api-key=k", "--hicache-size", "3", "--api-keys-file", "key", "host", "--configs"]
    assert ServersConfig.model_validate({"extra_args": words}).extra_args == tuple(words)


@pytest.mark.parametrize("key", ["addresses", "router", "host"])
@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028"])
def test_an_address_is_one_line(key: str, character: str) -> None:
    address = f"http://node7:1{character}X: y"
    given = {"addresses": ["http://node7:1"], key: [address] if key == "addresses" else address}
    with pytest.raises(ValidationError, match=f"{key}.*\\n.*has the control character"):
        ServersConfig.model_validate(given)


@pytest.mark.parametrize(
    ("host", "set_by_user", "expected"),
    [
        ("127.0.0.1", None, "here"),
        ("localhost", None, "here"),
        ("::1", None, "here"),
        ("127.0.0.1", "ib0", "ib0"),
        ("0.0.0.0", None, None),
        ("node7", None, None),
        ("node7", "ib0", "ib0"),
        ("127.0.0.1.example.com", None, None),
    ],
)
def test_gloo_of_a_server_for_this_machine_listens_here(
    host: str, set_by_user: str | None, expected: str | None
) -> None:
    env = {} if set_by_user is None else {"GLOO_SOCKET_IFNAME": set_by_user}
    found = server_environment(ServersConfig(host=host), "cpu", 0, env).get("GLOO_SOCKET_IFNAME")
    assert found == (loopback_interface() if expected == "here" else expected)


def test_a_proxy_is_not_told_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked itself whether it is ready, whatever the environment says of proxies."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 60\n")
    python.chmod(0o755)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with LocalServers(ServersConfig(python=python), MODEL, "cpu", tmp_path / "logs", print) as servers:
            assert not servers.ready(0.0)
        proxy.shutdown()
    assert asked == []


def test_a_server_that_names_another_place_is_not_followed(tmp_path: Path) -> None:
    """Whoever is there would be told the key, or asked what only the server is meant to be."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/elsewhere" else 307)
            self.send_header("Location", f"http://localhost:{place.server_port}/elsewhere")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *given: object) -> None:
            pass

    async def post(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            await ServerClient(url, session, "key").post("/generate", {}, 10.0)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as place:
        threading.Thread(target=place.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{place.server_port}"
        assert not _answers(url, "key")
        with pytest.raises(ServerError, match="/generate answered 307"):
            asyncio.run(post(url))
        place.shutdown()
    assert asked == ["/model_info", "/generate"]


def test_an_answer_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger's server sends is not kept beyond a bound."""
    sent = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal sent
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while sent < 1 << 30:
                    sent += self.wfile.write(b" " * (1 << 16))

        def log_message(self, *parts: object) -> None:
            pass

    async def version(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            await ServerClient(url, session, None).version()

    monkeypatch.setattr(client, "_MOST_BYTES", 1 << 20)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as place:
        threading.Thread(target=place.serve_forever, daemon=True).start()
        with pytest.raises(ServerError, match="/model_info: the answer does not end within 1 MiB"):
            asyncio.run(version(f"http://127.0.0.1:{place.server_port}"))
        place.shutdown()
    assert sent < 64 << 20  # the rest was never taken
