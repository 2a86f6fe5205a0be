"""What a test finds in its sandbox, and what of it reaches the host; as root and rootless."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

RunPytest = Callable[..., pytest.RunResult]
RunBody = Callable[..., pytest.RunResult]


@pytest.fixture
def run_body(pytester: pytest.Pytester, run_pytest: RunPytest) -> RunBody:
    """Run the one test that has this body, with this marker; it must pass."""

    def run(body: str, marker: str = "", *args: str) -> pytest.RunResult:
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        pytester.makepyfile(
            "import errno, os, socket, subprocess, sys, time\n"
            "from pathlib import Path\n"
            "import pytest\n\n"
            f"@pytest.mark.sandbox({marker})\n"
            f"def test_it(sandbox):\n{lines}"
        )
        result = run_pytest(*args)
        result.assert_outcomes(passed=1)
        return result

    return run


# ----------------------------------------------------------------------- processes


def test_the_test_is_the_second_process(run_body: RunBody) -> None:
    run_body("assert os.getpid() == 2")


def test_only_init_is_there_beside_the_test(run_body: RunBody) -> None:
    run_body("assert sorted(int(n) for n in os.listdir('/proc') if n.isdigit()) == [1, 2]")


def test_the_test_leads_a_process_group_of_its_own(run_body: RunBody) -> None:
    run_body("assert os.getpgrp() == 2")


def test_the_fixture_tells_what_else_is_alive(run_body: RunBody) -> None:
    run_body(
        """
assert sandbox.processes() == []
child = subprocess.Popen(["sleep", "300"])
while [p.command for p in sandbox.processes()] != ["sleep 300"]: time.sleep(0.01)
assert [p.pid for p in sandbox.processes()] == [child.pid]
child.kill(); child.wait()
assert sandbox.processes() == []
"""
    )


def test_no_signal_is_to_come_with_the_end_of_its_parent(run_body: RunBody) -> None:
    run_body(
        """
        import ctypes
        found = ctypes.c_int(-1)
        assert ctypes.CDLL(None).prctl(2, ctypes.byref(found)) == 0  # PR_GET_PDEATHSIG
        assert found.value == 0
        """.replace("        ", "")
    )


# ----------------------------------------------------------------------- files


def test_tmp_is_empty_but_for_what_pytest_needs(run_body: RunBody) -> None:
    # pytester's directory is below the host's /tmp, hence so is the way to it; our sources may be.
    run_body(
        "needed = [os.getcwd(), *sys.path, sys.prefix]\n"
        "ways = {path.split('/')[2] for path in needed if path.startswith('/tmp/')}\n"
        "assert set(os.listdir('/tmp')) <= ways"
    )


def test_nothing_that_is_written_to_tmp_is_left(
    run_body: RunBody, pytester: pytest.Pytester
) -> None:
    name = f"/tmp/{pytester.path.name}-left"
    run_body(f"Path({name!r}).write_text('x')")
    assert not os.path.exists(name)


def test_a_file_of_the_hosts_tmp_is_not_there(run_body: RunBody, pytester: pytest.Pytester) -> None:
    name = Path(f"/tmp/{pytester.path.name}-before")
    name.write_text("x")
    try:
        run_body(f"assert not os.path.exists({str(name)!r})")
    finally:
        name.unlink()


def test_a_write_to_a_file_of_the_hosts_vanishes(
    run_body: RunBody, pytester: pytest.Pytester
) -> None:
    data = pytester.path / "data"
    data.write_text("the host's")
    run_body("f = Path('data'); f.write_text('the test\\'s'); assert 'test' in f.read_text()")
    assert data.read_text() == "the host's"


def test_a_deletion_of_a_file_of_the_hosts_vanishes(
    run_body: RunBody, pytester: pytest.Pytester
) -> None:
    data = pytester.path / "data"
    data.write_text("the host's")
    run_body("os.unlink('data'); assert not os.path.exists('data')")
    assert data.read_text() == "the host's"


def test_a_new_file_beside_the_tests_vanishes(run_body: RunBody, pytester: pytest.Pytester) -> None:
    run_body("Path('new').write_text('x')")
    assert not (pytester.path / "new").exists()


def test_shared_memory_is_private(run_body: RunBody, pytester: pytest.Pytester) -> None:
    name = f"/dev/shm/{pytester.path.name}-left"
    run_body(f"assert os.listdir('/dev/shm') == []; Path({name!r}).write_text('x')")
    assert not os.path.exists(name)


def test_sys_is_read_only(run_body: RunBody) -> None:
    run_body("assert os.statvfs('/sys').f_flag & os.ST_RDONLY")


def test_a_pseudo_terminal_can_be_opened(run_body: RunBody) -> None:
    run_body("import pty; [os.close(fd) for fd in pty.openpty()]")


def test_the_fixture_tells_what_has_changed(run_body: RunBody, pytester: pytest.Pytester) -> None:
    (pytester.path / "modified").write_text("before")
    (pytester.path / "deleted").write_text("before")
    run_body(
        """
here = Path.cwd()
assert sandbox.changes() == []
(here / "added").write_text("x")
(here / "modified").write_text("behind")
(here / "deleted").unlink()
(here / "__pycache__").mkdir(exist_ok=True)
(here / "__pycache__/x.pyc").write_text("x")
found = [(c.path, c.kind) for c in sandbox.changes()]
assert found == [(str(here / kind), kind) for kind in ("added", "deleted", "modified")]
"""
    )


def test_changes_in_tmp_and_tmp_path_are_not_told(run_body: RunBody) -> None:
    run_body(
        """
import tempfile
Path(tempfile.mkdtemp(dir="/tmp"), "file").write_text("x")
assert sandbox.changes() == []
"""
    )


# ----------------------------------------------------------------------- the same as bare


def test_what_the_process_is_stays_the_same(
    run_pytest: RunPytest, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        import os, socket, sys
        import pytest

        def state():
            umask = os.umask(0)
            os.umask(umask)
            env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
            return {
                "uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()),
                "cwd": os.getcwd(), "umask": umask, "hostname": socket.gethostname(),
                "env": env, "path": sys.path, "executable": sys.executable,
            }

        @pytest.fixture(scope="session")
        def before():
            os.umask(0o027)
            os.environ["SET_BY_A_FIXTURE"] = "1"
            return state()

        @pytest.mark.sandbox
        @pytest.mark.parametrize("what", sorted(state()))
        def test_it(before, what):
            assert state()[what] == before[what]
        """
    )
    run_pytest().assert_outcomes(passed=9)


# ----------------------------------------------------------------------- options


def test_the_fixture_tells_the_options(run_body: RunBody) -> None:
    run_body(
        "assert (sandbox.options.tmp_size, sandbox.options.network) == (1 << 20, 'none')",
        "tmp_size='1M', network='none'",
    )


def test_a_full_tmp_is_out_of_space(run_body: RunBody) -> None:
    run_body(
        """
with pytest.raises(OSError) as caught:
    with open("/tmp/big", "wb", buffering=0) as file:
        for _ in range(3): file.write(b"x" * (1 << 20))
assert caught.value.errno == errno.ENOSPC
""",
        "tmp_size='2M'",
    )


def test_loopback_carries_a_connection(run_body: RunBody) -> None:
    run_body(
        """
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname(), 5) as one, server.accept()[0] as other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
""",
        "network='loopback'",
    )


@pytest.mark.parametrize(
    ("network", "reached"), [("host", True), ("loopback", False), ("none", False)]
)
def test_a_server_on_the_host_is_reached_only_by_its_network(
    run_body: RunBody, network: str, reached: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        run_body(
            f"""
with socket.socket() as client:
    client.settimeout(5)
    assert (client.connect_ex({server.getsockname()!r}) == 0) is {reached}
""",
            f"network={network!r}",
        )


def test_two_tests_may_have_the_same_port(run_pytest: RunPytest, pytester: pytest.Pytester) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pytester.makepyfile(
            f"""
            import socket
            import pytest

            @pytest.mark.sandbox(network="loopback")
            @pytest.mark.parametrize("n", range(2))
            def test_it(n):
                socket.create_server({taken.getsockname()!r})  # left open
            """
        )
        run_pytest("-p", "no:unraisableexception").assert_outcomes(passed=2)


@pytest.mark.parametrize(("network", "up"), [("loopback", True), ("none", False)])
def test_lo_is_the_only_interface_and_up_if_that_is_asked_for(
    run_body: RunBody, network: str, up: bool
) -> None:
    run_body(
        f"""
import fcntl, struct
assert [name for _, name in socket.if_nameindex()] == ["lo"]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    request = fcntl.ioctl(s, 0x8913, struct.pack("16sH14x", b"lo", 0))  # SIOCGIFFLAGS
assert bool(struct.unpack("16sH14x", request)[1] & 1) is {up}
""",
        f"network={network!r}",
    )


def test_a_host_name_is_for_the_sandbox_alone(run_body: RunBody) -> None:
    before = socket.gethostname()
    run_body("assert socket.gethostname() == 'box'", "hostname='box'")
    assert socket.gethostname() == before


def test_variables_are_set_for_the_test_and_its_children(run_body: RunBody) -> None:
    run_body(
        """
assert os.environ["COLOUR"] == "red"
assert subprocess.check_output(["sh", "-c", "echo $COLOUR"]) == b"red\\n"
""",
        "env={'COLOUR': 'red'}",
    )


def test_a_variable_is_set_for_one_test_and_not_the_next(
    run_pytest: RunPytest, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.sandbox(env={"COLOUR": "red"})
        def test_one(): assert os.environ["COLOUR"] == "red"

        @pytest.mark.sandbox
        def test_two(): assert "COLOUR" not in os.environ

        def test_bare(): assert "COLOUR" not in os.environ
        """
    )
    run_pytest().assert_outcomes(passed=3)


def test_a_bound_directory_is_the_hosts(run_body: RunBody, pytester: pytest.Pytester) -> None:
    shared = pytester.mkdir("shared")
    run_body("Path('shared/file').write_text('x')", f"bind=[{str(shared)!r}]")
    assert (shared / "file").read_text() == "x"


def test_a_bound_file_is_the_hosts(run_body: RunBody, pytester: pytest.Pytester) -> None:
    shared = pytester.path / "shared"
    shared.write_text("before")
    run_body("Path('shared').write_text('after')", f"bind=[{str(shared)!r}]")
    assert shared.read_text() == "after"


def test_a_bind_may_be_elsewhere(run_body: RunBody, pytester: pytest.Pytester) -> None:
    (pytester.mkdir("shared") / "file").write_text("x")
    run_body(
        "assert Path('/mnt/nsbox/there/file').read_text() == 'x'",
        f"bind=['{pytester.path}/shared:/mnt/nsbox/there']",
    )
    assert not os.path.exists("/mnt/nsbox")


def test_a_bind_may_be_in_tmp(run_body: RunBody, pytester: pytest.Pytester) -> None:
    (pytester.mkdir("shared") / "file").write_text("x")
    run_body(
        "assert Path('/tmp/there/file').read_text() == 'x'",
        f"bind=['{pytester.path}/shared:/tmp/there']",
    )


def test_a_read_only_bind_refuses_a_write(run_body: RunBody, pytester: pytest.Pytester) -> None:
    pytester.mkdir("shared")
    run_body(
        """
with pytest.raises(OSError) as caught:
    Path("shared/file").write_text("x")
assert caught.value.errno == errno.EROFS
""",
        f"bind=['{pytester.path}/shared:ro']",
    )


def test_a_hidden_file_is_empty(run_body: RunBody, pytester: pytest.Pytester) -> None:
    secret = pytester.path / "secret"
    secret.write_text("x")
    run_body("assert Path('secret').read_text() == ''", f"hide=[{str(secret)!r}]")
    assert secret.read_text() == "x"


def test_a_hidden_directory_is_empty(run_body: RunBody, pytester: pytest.Pytester) -> None:
    secret = pytester.mkdir("secrets")
    (secret / "file").write_text("x")
    run_body("assert os.listdir('secrets') == []", f"hide=[{str(secret)!r}]")
    assert (secret / "file").read_text() == "x"


def test_hiding_what_is_not_there_is_no_error(run_body: RunBody) -> None:
    run_body("assert not os.path.exists('/no/such')", "hide=['/no/such']")


def test_the_ini_file_gives_the_defaults(run_body: RunBody, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nnsbox_hostname = box\nnsbox_env =\n    A=1\n    B=2\n")
    run_body("assert (socket.gethostname(), os.environ['B']) == ('box', '2')")


def test_the_marker_overrules_the_ini_file(run_body: RunBody, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nnsbox_hostname = box\n")
    run_body("assert socket.gethostname() == 'other'", "hostname='other'")


def test_the_fixture_alone_asks_for_a_sandbox(
    run_pytest: RunPytest, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("import os\ndef test_it(sandbox): assert os.getpid() == 2")
    run_pytest().assert_outcomes(passed=1)


def test_the_fixture_refuses_to_tell_where_the_test_runs_bare(
    run_pytest: RunPytest, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("def test_it(sandbox): sandbox.changes()")
    result = run_pytest("--nsbox=off")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *SandboxError: this test runs bare*"])
