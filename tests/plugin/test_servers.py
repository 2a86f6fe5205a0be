"""Servers that broad fixtures started answer a sandboxed test; those of strangers do not."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RunPytest = Callable[..., pytest.RunResult]

# A server that says who it is, and what it takes to start it in every way there is.
SERVERS = """
import os, socket, subprocess, sys, threading, time
from pathlib import Path

def listen(address, kind=socket.SOCK_STREAM):
    server = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, kind)
    server.bind(address)
    if kind != socket.SOCK_DGRAM:
        server.listen()
    return server

def answer(server):
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed
            return
        with connection:
            connection.sendall(b"%d" % os.getpid())

def thread(address):
    server = listen(address)
    threading.Thread(target=answer, args=(server,), daemon=True).start()
    return server

def ask(address):
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    with client:
        client.settimeout(10)
        if isinstance(address, str):  # which may be longer than an address can be
            directory = os.open(os.path.dirname(address) or ".", os.O_PATH)
            address = f"/proc/self/fd/{directory}/{os.path.basename(address)}"
        client.connect(address)
        return int(client.recv(100))

def program(path, *how):
    command = [sys.executable, __file__, str(path), *how]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def until(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.01)

def become_daemon(path):
    # True in a process that has left its parent, its session and its directory.
    if os.fork():
        os.wait()
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    Path(f"{path}.pid").write_text(str(os.getpid()))
    return True

def serve(path):
    os.chdir(os.path.dirname(path))  # its address has 108 bytes
    server = listen("new")
    os.rename("new", os.path.basename(path))  # it is there once it answers
    answer(server)

if __name__ == "__main__":
    path = os.path.abspath(sys.argv[1])
    if "daemon" not in sys.argv or become_daemon(path):
        serve(path)
"""


@pytest.fixture(autouse=True)
def servers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(servers=SERVERS)


def test_a_server_in_a_thread_answers_wherever_its_socket_is(
    pytester: pytest.Pytester, run_pytest: RunPytest, short_tmp: Path
) -> None:
    pytester.makepyfile(
        f"""
        import os, socket, stat
        from pathlib import Path
        import pytest
        from servers import ask, listen, thread

        TMP = Path({str(short_tmp)!r})

        @pytest.fixture(scope="session")
        def server(tmp_path_factory):
            (TMP / "closed").mkdir(0o700)
            (TMP / "closed/data").write_text("1")
            paths = {{
                "tmp": f"{{TMP}}.sock",
                "directory": f"{{TMP}}/closed/sock",
                "shm": f"/dev/shm/{{TMP.name}}.sock",
                "relative": "sock",
                "basetemp": str(tmp_path_factory.mktemp("it") / "sock"),
                "tcp": ("127.0.0.1", 0),
            }}
            sockets = {{name: thread(path) for name, path in paths.items()}}
            paths["tcp"] = sockets["tcp"].getsockname()
            yield paths
            for name, server in sockets.items():
                server.close()
                if name != "tcp":
                    os.unlink(paths[name])

        CONTROLLER = os.getpid()

        @pytest.mark.sandbox
        @pytest.mark.parametrize("where", ["tmp", "directory", "shm", "relative", "basetemp", "tcp"])
        def test_it(server, where, sandbox, tmp_path):
            assert os.getpid() == 2
            assert ask(server[where]) == CONTROLLER
            assert sandbox.changes() == []

        @pytest.mark.sandbox
        def test_all(server, sandbox):
            assert os.listdir("/tmp") != []
            here = {{name: os.stat(path) for name, path in server.items() if name != "tcp"}}
            assert all(stat.S_ISSOCK(status.st_mode) for status in here.values())
            # The directory of the server is that of the fixture; what is written to it stays here.
            assert stat.S_IMODE(os.stat(TMP / "closed").st_mode) == 0o700
            assert (TMP / "closed/data").read_text() == "1"
            (TMP / "closed/data").write_text("2")
            with pytest.raises(OSError, match="Read-only"):
                os.chmod(server["tmp"], 0)
            with pytest.raises(OSError, match="busy"):
                os.unlink(server["tmp"])

        @pytest.mark.sandbox(network="loopback")
        def test_a_network_of_its_own_has_the_paths(server):
            for name, path in server.items():
                if name != "tcp":
                    assert ask(path) == CONTROLLER

        @pytest.mark.sandbox(hide=[str(TMP)])
        def test_what_is_hidden_stays_hidden(server):
            assert not os.path.exists(server["directory"])

        @pytest.mark.sandbox(bind=[str(TMP)])
        def test_a_bind_leads_there_as_well(server):
            assert ask(server["directory"]) == CONTROLLER

        def test_bare(server):
            assert (TMP / "closed/data").read_text() == "1"
            assert os.stat(server["tmp"]).st_mode & 0o700
            for path in server.values():
                assert ask(path) == CONTROLLER
        """
    )
    run_pytest("--basetemp", str(short_tmp / "base")).assert_outcomes(passed=11)


@pytest.mark.parametrize("how", ["program", "daemon", "fork"])
def test_a_server_in_a_process_answers_and_what_it_writes_is_seen(
    pytester: pytest.Pytester, run_pytest: RunPytest, short_tmp: Path, how: str
) -> None:
    pytester.makepyfile(
        f"""
        import os, signal
        from pathlib import Path
        import pytest
        from servers import ask, become_daemon, program, serve, until

        HOW = {how!r}

        @pytest.fixture(scope="module", params=["tmp", "basetemp"])
        def server(request, tmp_path_factory):
            in_tmp = request.param == "tmp"
            path = (Path({str(short_tmp)!r}) if in_tmp else tmp_path_factory.mktemp("it")) / "sock"
            if HOW == "fork":
                if become_daemon(path):
                    try:
                        serve(str(path))
                    finally:
                        os._exit(1)
                process = None
            else:
                process = program(path, HOW)
            until(path)
            if HOW == "daemon":
                process.wait()
            yield path
            if process is None or process.poll() is not None:
                os.kill(int(Path(f"{{path}}.pid").read_text()), signal.SIGKILL)
            else:
                process.kill()
                process.wait()
            path.unlink()

        @pytest.fixture(scope="class", params=[1, 2])
        def log(server, request):
            with open(server.with_name("log"), "a") as file:
                file.write(f"{{request.param}}.")

        @pytest.mark.sandbox
        class TestIt:
            def test_it(self, server, log, request):
                pid = ask(str(server))
                assert pid > 2
                if HOW != "program":
                    assert server.with_name("sock.pid").read_text() == str(pid)
                expected = "1." if request.node.callspec.params["log"] == 1 else "1.2."
                assert server.with_name("log").read_text() == expected
        """
    )
    run_pytest().assert_outcomes(passed=4)


def test_a_server_of_the_next_fixture_takes_the_place_of_the_one_before(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest
        from servers import ask, program, until
        from pathlib import Path

        @pytest.fixture(scope="class")
        def server():
            path = Path("sock").absolute()
            process = program(path)
            until(path)
            yield process.pid
            process.kill()
            process.wait()
            path.unlink()

        @pytest.mark.sandbox
        class TestOne:
            def test_it(self, server): assert ask("sock") == server
            def test_again(self, server): assert ask("sock") == server

        @pytest.mark.sandbox
        class TestTwo:
            def test_it(self, server): assert ask("sock") == server

        @pytest.mark.sandbox
        def test_gone():
            assert not os.path.exists("sock")
        """
    )
    run_pytest().assert_outcomes(passed=4)


def test_a_server_that_is_late_answers_the_next_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path
        import pytest
        from servers import ask, listen, program, until

        @pytest.fixture(scope="module")
        def server():
            process = program(Path("sock").absolute())
            yield process.pid
            process.kill()
            process.wait()

        @pytest.mark.sandbox
        def test_one(server):
            pass

        def test_bare(server):
            until(Path("sock"))

        @pytest.mark.sandbox
        def test_two(server):
            assert ask("sock") == server
        """
    )
    run_pytest().assert_outcomes(passed=3)


def test_datagrams_reach_a_server_of_a_broad_fixture(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import socket
        import pytest
        from servers import listen

        @pytest.fixture(scope="module")
        def server():
            server = listen("sock", socket.SOCK_DGRAM)
            yield server
            assert server.recv(100) == b"from the sandbox"
            server.close()

        @pytest.mark.sandbox
        def test_it(server):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            client.sendto(b"from the sandbox", "sock")
        """
    )
    run_pytest().assert_outcomes(passed=1)


def test_a_socket_that_nobody_serves_any_more_is_no_obstacle(
    pytester: pytest.Pytester, run_pytest: RunPytest, short_tmp: Path
) -> None:
    pytester.makepyfile(
        f"""
        import os, shutil
        import pytest
        from servers import thread

        @pytest.fixture(scope="module")
        def server():
            os.mkdir({str(short_tmp / "it")!r})
            return thread({str(short_tmp / "it/sock")!r})

        @pytest.fixture(scope="class")
        def removed(server):
            shutil.rmtree({str(short_tmp / "it")!r})

        @pytest.mark.sandbox
        def test_there(server):
            assert os.path.exists(server.getsockname())

        @pytest.mark.sandbox
        class TestRemoved:
            def test_it(self, server, removed):
                pass
        """
    )
    run_pytest("-W", "error").assert_outcomes(passed=2)


def test_a_daemon_of_another_worker_is_a_stranger(
    pytester: pytest.Pytester, run_pytest: RunPytest, short_tmp: Path
) -> None:
    pytester.makepyfile(
        f"""
        import os, signal
        from pathlib import Path
        import pytest
        from servers import ask, program, until

        @pytest.fixture(scope="session")
        def servers(worker_id):
            paths = {{worker: Path({str(short_tmp)!r}, worker) for worker in ("gw0", "gw1")}}
            own = paths.pop(worker_id)
            assert program(own, "daemon").wait() == 0
            (other,) = paths.values()
            until(own)
            until(other)
            yield own, other
            os.kill(int(Path(f"{{own}}.pid").read_text()), signal.SIGKILL)

        @pytest.mark.sandbox
        def test_it(servers):
            own, other = servers
            assert ask(str(own)) > 2
            with pytest.raises(ConnectionRefusedError):
                ask(str(other))
        """
    )
    run_pytest("-n2", "--dist=each").assert_outcomes(passed=2)


@pytest.fixture
def strangers() -> Iterator[Path]:
    """Servers that are not the run's: one from before it, and one from when a fixture asks for it."""
    stop = threading.Event()
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="nsbox-servers-") as directory:

        def start_when_asked() -> None:
            while not stop.is_set() and not Path(directory, "asked").exists():
                time.sleep(0.01)
            if not stop.is_set():
                command = [sys.executable, "servers.py", f"{directory}/later"]
                started.append(subprocess.Popen(command))

        thread = threading.Thread(target=start_when_asked)
        thread.start()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{directory}/earlier")
            server.listen()
            yield Path(directory)
        stop.set()
        thread.join()
        for process in started:
            process.kill()
            process.wait()


def test_a_server_of_a_stranger_is_refused_but_by_bind(
    pytester: pytest.Pytester, run_pytest: RunPytest, strangers: Path
) -> None:
    pytester.makepyfile(
        f"""
        import socket
        from pathlib import Path
        import pytest
        from servers import until

        STRANGERS = Path({str(strangers)!r})

        @pytest.fixture(scope="module")
        def later():
            (STRANGERS / "asked").touch()
            until(STRANGERS / "later")

        def connect(name):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(STRANGERS / name))

        @pytest.mark.sandbox
        @pytest.mark.parametrize("name", ["earlier", "later"])
        def test_refused(later, name):
            with pytest.raises(ConnectionRefusedError):
                connect(name)

        @pytest.mark.sandbox(bind=[str(STRANGERS / "earlier")])
        def test_bound(later):
            connect("earlier")
            test_refused(later, "later")

        @pytest.mark.sandbox(bind=[str(STRANGERS)])
        def test_directory_bound(later):
            connect("earlier")
            connect("later")
        """
    )
    run_pytest().assert_outcomes(passed=4)
