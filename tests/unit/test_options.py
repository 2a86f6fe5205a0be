"""Options: what a marker, the ini-file and the command line may say, and what a refusal tells."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_nsbox.options import (
    KEYS,
    Bind,
    OptionError,
    SandboxOptions,
    from_ini,
    merge,
    parse_size,
)


def refusal(key: str, value: object) -> str:
    """What the marker's user is told about a bad value."""
    with pytest.raises(OptionError) as caught:
        KEYS[key].parse(value)
    return str(caught.value)


def ini_refusal(**ini: object) -> str:
    """What the ini-file's user is told about a bad value."""
    with pytest.raises(OptionError) as caught:
        from_ini(ini.get)
    return str(caught.value)


# ----------------------------------------------------------------------- registry


def test_every_key_is_a_field_of_the_options_and_the_other_way_round() -> None:
    assert list(KEYS) == list(SandboxOptions._fields)


def test_the_import_is_cheap_and_needs_no_pytest() -> None:
    code = "import sys, pytest_nsbox.options; print({'pytest', 'difflib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


# ----------------------------------------------------------------------- tmp_size


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (1, 1),
        ("4096", 4096),
        ("1K", 1 << 10),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MiB", 64 << 20),
        ("64MB", 64 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(given: object, size: int) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize(
    "bad",
    [
        "64Q",
        "",
        "M",
        "-1",
        "0",
        "0M",
        "1.5G",
        "50%",
        0,
        -1,
        True,
        1.0,
        None,
        [64],
        1 << 63,
        "8388608T",
    ],
)
def test_a_bad_size_is_refused_with_an_example(bad: object) -> None:
    message = refusal("tmp_size", bad)
    assert message.startswith(f"tmp_size={bad!r} is not a size; write a number of bytes above 0")
    assert message.endswith("K, M, G or T, such as '64M'")


@pytest.mark.parametrize("bad", ["9" * 5000, "1\N{KELVIN SIGN}"], ids=["long", "kelvin"])
def test_a_size_that_python_chokes_on_is_an_option_error(bad: str) -> None:
    assert "is not a size" in refusal("tmp_size", bad)


# ----------------------------------------------------------------------- network


@pytest.mark.parametrize("network", ["host", "loopback", "none"])
def test_a_network_is_one_of_three(network: str) -> None:
    assert KEYS["network"].parse(network) == network


@pytest.mark.parametrize("bad", ["wifi", "", "Host", None, 1, ["host"]])
def test_another_network_is_refused_with_the_choices(bad: object) -> None:
    expected = f"network={bad!r} is not allowed; choose from 'host', 'loopback', 'none'"
    assert refusal("network", bad) == expected


# ----------------------------------------------------------------------- timeout


@pytest.mark.parametrize("given", [10, 10.0])
def test_a_timeout_is_a_number_of_seconds(given: float) -> None:
    assert KEYS["timeout"].parse(given) == 10.0


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        0.0,
        -0.5,
        float("inf"),
        float("nan"),
        "abc",
        "10",
        True,
        None,
        [1],
        2_147_484,
        10**400,
    ],
    ids=lambda bad: repr(bad)[:12],
)
def test_a_bad_timeout_is_refused_with_what_is_allowed(bad: object) -> None:
    message = refusal("timeout", bad)
    assert message.startswith(
        f"timeout={bad!r} is not a timeout; write a number of seconds above 0"
    )


def test_a_timeout_in_text_is_a_number() -> None:
    assert KEYS["timeout"].parse_ini("2.5") == 2.5


@pytest.mark.parametrize("bad", ["abc", "0", "-1", "inf", "nan", ["3"]])
def test_a_bad_timeout_in_text_is_named_as_it_was_written(bad: object) -> None:
    message = ini_refusal(nsbox_timeout=bad)
    assert message.startswith(f"nsbox_timeout={bad!r} is not a timeout")


# ----------------------------------------------------------------------- env


def test_an_environment_is_a_dict_of_strings() -> None:
    assert KEYS["env"].parse({"TZ": "UTC", "EMPTY": ""}) == {"TZ": "UTC", "EMPTY": ""}


@pytest.mark.parametrize("bad", ["TZ=UTC", ["TZ=UTC"], None, 1])
def test_an_environment_that_is_no_dict_is_refused(bad: object) -> None:
    message = refusal("env", bad)
    assert message == f"env={bad!r} is not an environment; write a dict, such as {{'TZ': 'UTC'}}"


@pytest.mark.parametrize("bad", ["", "A=B", "A\0", 1])
def test_a_bad_name_of_a_variable_is_refused(bad: object) -> None:
    assert refusal("env", {bad: "x"}) == (
        f"env={{{bad!r}: ...}} has a bad name; a name is a string, not empty, without '=' and NUL"
    )


@pytest.mark.parametrize("bad", [1, None, b"x", "\0"])
def test_a_bad_value_of_a_variable_is_refused(bad: object) -> None:
    assert refusal("env", {"A": bad}) == (
        f"env={{'A': {bad!r}}} has a bad value; a value is a string without NUL, such as '1'"
    )


def test_a_refused_variable_does_not_give_the_others_away() -> None:
    assert "hunter2" not in refusal("env", {"PASSWORD": "hunter2", "A": 1})


def test_an_environment_in_text_is_a_variable_a_line() -> None:
    lines = ["TZ=UTC", "EMPTY=", "FLAGS=-O2 -DX=1"]
    assert KEYS["env"].parse_ini(lines) == {"TZ": "UTC", "EMPTY": "", "FLAGS": "-O2 -DX=1"}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (["TZ"], "nsbox_env='TZ' has no '='; write NAME=VALUE, one a line"),
        (["=UTC"], "nsbox_env={'': ...} has a bad name"),
        ([1], "nsbox_env=[1] has the item 1; an item is a string"),
        ("TZ=UTC", "nsbox_env='TZ=UTC' is not a list; write a list, such as ['TZ=UTC']"),
    ],
)
def test_a_bad_environment_in_text_is_refused(bad: object, told: str) -> None:
    assert ini_refusal(nsbox_env=bad).startswith(told)


# ----------------------------------------------------------------------- lists


@pytest.mark.parametrize("key", ["bind", "hide", "keep"])
def test_a_single_string_is_refused_for_a_list(key: str) -> None:
    assert refusal(key, "/etc") == f"{key}='/etc' is not a list; write a list, such as ['/etc']"


@pytest.mark.parametrize("key", ["bind", "hide", "keep"])
@pytest.mark.parametrize("bad", [None, 1, {"/etc": "/mnt"}, {"/etc"}])
def test_what_is_no_list_is_refused_for_a_list(key: str, bad: object) -> None:
    assert refusal(key, bad).startswith(f"{key}={bad!r} is not a list; write a list, such as ['")


@pytest.mark.parametrize("key", ["bind", "hide", "keep"])
@pytest.mark.parametrize("bad", ["", 1, None, Path("/etc"), "/etc\0"])
def test_an_item_that_is_no_proper_string_is_refused(key: str, bad: object) -> None:
    assert f"has the item {bad!r}; an item is a string, not empty" in refusal(key, ["/usr", bad])


def test_paths_to_keep_stay_as_they_are_given() -> None:
    assert KEYS["keep"].parse(["build/report", "/var/log/x", "a:b"]) == (
        "build/report",
        "/var/log/x",
        "a:b",
    )


# ----------------------------------------------------------------------- bind


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    return str(tmp_path / "data")


@pytest.mark.parametrize(
    ("suffix", "target", "read_only"),
    [
        ("", None, False),
        (":rw", None, False),
        (":ro", None, True),
        (":/mnt", "/mnt", False),
        (":/mnt:rw", "/mnt", False),
        (":/mnt/x/../data/:ro", "/mnt/data", True),
        (":/tmp", "/tmp", False),
    ],
)
def test_a_bind_is_a_source_with_a_target_and_a_mode(
    data: str, suffix: str, target: str | None, read_only: bool
) -> None:
    assert KEYS["bind"].parse([data + suffix]) == (Bind(data, target or data, read_only),)


def test_a_bind_expands_the_home_on_both_sides(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert KEYS["bind"].parse(["~/data:~/inside"]) == (Bind(data, f"{tmp_path}/inside", False),)


def test_a_device_node_may_be_bound_where_it_is() -> None:
    assert KEYS["bind"].parse(["/dev/null"]) == (Bind("/dev/null", "/dev/null", False),)


def test_a_bind_of_a_path_that_does_not_exist_is_refused() -> None:
    assert refusal("bind", ["/nowhere:/mnt"]) == (
        "bind='/nowhere:/mnt': /nowhere does not exist on the host; name a path that does"
    )


@pytest.mark.parametrize("path", ["data", "./data", "", "~no-such-user/data"])
def test_a_relative_source_is_refused(path: str) -> None:
    assert f"{path!r} is relative; write an absolute path" in refusal("bind", [f"{path}:/mnt"])


def test_a_relative_target_is_refused(data: str) -> None:
    assert "'mnt' is relative; write an absolute path" in refusal("bind", [f"{data}:mnt:ro"])


@pytest.mark.parametrize("mode", ["rx", "", "RO", "mnt"])
def test_a_bad_mode_is_refused_with_the_two(data: str, mode: str) -> None:
    given = f"{data}:/mnt:{mode}"
    assert refusal("bind", [given]).startswith(
        f"bind={given!r} has the mode {mode!r}; choose 'ro' or 'rw' (the default)"
    )


def test_a_bind_of_too_many_parts_is_refused_with_the_form(data: str) -> None:
    assert "write 'SOURCE[:TARGET][:ro|rw]'" in refusal("bind", [f"{data}:/a:/b:ro"])


@pytest.mark.parametrize(
    "target",
    [
        *("/", "//", "/usr/..", "/proc", "//proc", "/proc/sys/net", "/sys", "/sys/fs/cgroup"),
        *("/dev", "/dev/", "/dev/pts", "/dev/pts/0", "/dev/shm", "/dev/shm/x"),
    ],
)
def test_a_bind_onto_what_the_sandbox_makes_itself_is_refused(data: str, target: str) -> None:
    message = refusal("bind", [f"{data}:{target}"])
    assert re.match(rf"bind='{data}:{target}' is onto /[\w/]*, which every sandbox has", message)
    assert "choose a target that is none of /, /dev, /proc, /sys" in message


def test_a_bind_onto_a_symlink_to_what_the_sandbox_makes_itself_is_refused(
    data: str, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert "is onto /proc, which" in refusal("bind", [f"{data}:{tmp_path}/link"])


def test_a_bind_of_the_root_needs_another_target() -> None:
    assert KEYS["bind"].parse(["/:/mnt:ro"]) == (Bind("/", "/mnt", True),)


@pytest.mark.parametrize("text", ["/usr", "/usr:ro", "/usr:/mnt", "/usr:/mnt:ro"])
def test_a_bind_reads_as_it_is_written(text: str) -> None:
    assert merge({}, [{"bind": [text]}]).describe() == f"bind={text}"


# ----------------------------------------------------------------------- hide


def test_hidden_paths_are_expanded_and_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert KEYS["hide"].parse(["~/.config", "/etc//x/../y/"]) == ("/home/someone/.config", "/etc/y")


def test_a_relative_path_to_hide_is_refused() -> None:
    assert refusal("hide", [".config"]) == (
        "hide='.config': '.config' is relative; write an absolute path, or one with ~"
    )


@pytest.mark.parametrize(
    "path", ["/", "//", "/proc", "/proc/1", "//proc", "/sys", "/dev", "/dev/shm", "/tmp", "/tmp/"]
)
def test_what_every_sandbox_has_of_its_own_cannot_be_hidden(path: str) -> None:
    message = refusal("hide", [path])
    assert message.startswith(f"hide={path!r} is /")
    assert "choose a path that is none of /, /dev, /proc, /sys" in message


def test_a_symlink_into_proc_cannot_be_hidden(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/mounts")
    assert refusal("hide", [f"{tmp_path}/link"]).startswith(f"hide='{tmp_path}/link' is /proc/")


# ----------------------------------------------------------------------- hostname


@pytest.mark.parametrize("name", ["box", "a.b-c", "x" * 64, "é" * 32])
def test_a_host_name_has_up_to_64_bytes(name: str) -> None:
    assert KEYS["hostname"].parse(name) == name


@pytest.mark.parametrize(("name", "length"), [("x" * 65, 65), ("é" * 33, 66)])
def test_a_host_name_too_long_is_refused_with_its_length_and_the_limit(
    name: str, length: int
) -> None:
    expected = f"hostname={name!r} has {length} bytes; at most 64 are allowed"
    assert refusal("hostname", name) == expected


@pytest.mark.parametrize("bad", ["", "a/b", "a\0", None, 1, ["box"]])
def test_what_is_no_host_name_is_refused(bad: object) -> None:
    assert refusal("hostname", bad).startswith(
        f"hostname={bad!r} is not a host name; write a string of 1 to 64 bytes"
    )


# ----------------------------------------------------------------------- ini


def test_an_empty_ini_file_says_nothing() -> None:
    unset: Mapping[str, object] = {"nsbox_bind": [], "nsbox_hostname": ""}
    assert from_ini(unset.get) == {}


def test_the_ini_file_is_parsed_key_by_key(data: str) -> None:
    ini: Mapping[str, object] = {
        "nsbox_tmp_size": "64M",
        "nsbox_network": "none",
        "nsbox_timeout": "10",
        "nsbox_env": ["TZ=UTC"],
        "nsbox_bind": [f"{data}:ro"],
        "nsbox_hide": ["/srv"],
        "nsbox_hostname": "box",
        "nsbox_keep": ["report"],
    }
    assert from_ini(ini.get) == {
        "tmp_size": 64 << 20,
        "network": "none",
        "timeout": 10.0,
        "env": {"TZ": "UTC"},
        "bind": (Bind(data, data, True),),
        "hide": ("/srv",),
        "hostname": "box",
        "keep": ("report",),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nsbox_tmp_size", "64Q"),
        ("nsbox_network", "wifi"),
        ("nsbox_timeout", "abc"),
        ("nsbox_hostname", "a/b"),
        ("nsbox_hostname", ["box"]),
        ("nsbox_hide", "/srv"),
    ],
)
def test_a_bad_ini_value_is_refused_by_the_name_of_the_ini_option(name: str, value: object) -> None:
    assert ini_refusal(**{name: value}).startswith(f"{name}={value!r} is not ")


def test_text_from_the_command_line_is_refused_by_the_name_of_the_key() -> None:
    with pytest.raises(OptionError, match=r"^timeout='abc' is not a timeout"):
        KEYS["timeout"].parse_ini("abc")


# ----------------------------------------------------------------------- merging


def test_no_layers_make_the_defaults() -> None:
    assert merge({}, []) == SandboxOptions(
        tmp_size=None,
        network="host",
        timeout=None,
        env={},
        bind=(),
        hide=(),
        hostname=None,
        keep=(),
    )


def test_the_closest_marker_wins_key_by_key() -> None:
    options = merge(
        {"network": "none", "hostname": "ini", "timeout": 1.0},
        [{"hostname": "module", "timeout": 2}, {"timeout": 3}],
    )
    assert (options.network, options.hostname, options.timeout) == ("none", "module", 3.0)


def test_a_closer_value_replaces_and_adds_nothing() -> None:
    options = merge({"env": {"A": "1"}}, [{"hide": ["/a"]}, {"env": {"B": "2"}, "hide": ["/b"]}])
    assert (options.env, options.hide) == ({"B": "2"}, ("/b",))


def test_an_empty_list_takes_a_default_away() -> None:
    assert merge({"hide": ("/srv",)}, [{"hide": []}]).hide == ()


def test_what_the_ini_file_says_is_the_layer_beneath() -> None:
    ini: Mapping[str, object] = {"nsbox_tmp_size": "1K", "nsbox_env": ["TZ=UTC"]}
    options = merge(from_ini(ini.get), [{"tmp_size": "2K"}])
    assert (options.tmp_size, options.env["TZ"]) == (2048, "UTC")


def test_a_bad_value_is_refused_wherever_it_stands() -> None:
    with pytest.raises(OptionError, match=r"^timeout=0 "):
        merge({}, [{"timeout": 0}, {"timeout": 1}])


def test_an_unknown_key_is_refused_with_the_nearest_and_all_that_are_known() -> None:
    with pytest.raises(OptionError) as caught:
        merge({}, [{"tmpsize": "1M"}])
    assert str(caught.value) == (
        "unknown key 'tmpsize' of the sandbox marker; did you mean 'tmp_size'? "
        "known are tmp_size, network, timeout, env, bind, hide, hostname, keep, serial, scope"
    )


def test_an_unknown_key_that_is_near_to_none_gets_no_hint() -> None:
    with pytest.raises(OptionError, match=r"unknown key 'xyz' of the sandbox marker; known are"):
        merge({}, [{"xyz": 1}])


# ----------------------------------------------------------------------- the value


def test_equal_options_have_equal_hashes() -> None:
    layer: dict[str, Any] = {"env": {"A": "1"}, "hide": ["/a"], "tmp_size": "1K"}
    assert len({merge({}, [layer]), merge({}, [layer | {"tmp_size": 1024}])}) == 1


def test_options_that_differ_in_a_variable_are_not_equal() -> None:
    assert merge({}, [{"env": {"A": "1"}}]) != merge({}, [{"env": {"A": "2"}}])


def test_the_environment_is_read_only_and_apart_from_the_marker() -> None:
    given = {"A": "1"}
    options = merge({}, [{"env": given}])
    given["A"] = "2"
    assert options.env == {"A": "1"}
    with pytest.raises(TypeError):
        options.env["A"] = "3"  # type: ignore[index]


def test_the_description_of_the_defaults_is_empty() -> None:
    assert SandboxOptions().describe() == ""


def test_the_description_has_what_is_not_the_default() -> None:
    layer = {
        "network": "loopback",
        "tmp_size": "64M",
        "timeout": 10,
        "bind": ["/usr:/mnt:ro", "/etc"],
    }
    assert merge({}, [layer]).describe() == (
        "tmp_size=64M, network=loopback, timeout=10, bind=/usr:/mnt:ro,/etc"
    )


def test_the_description_names_variables_and_keeps_their_values_to_itself() -> None:
    assert merge({}, [{"env": {"TOKEN": "hunter2", "TZ": "UTC"}}]).describe() == "env=TOKEN,TZ"


@pytest.mark.parametrize("size", ["1", "1023", "1K", "1536K", "64M", "2G", "1T", "1025T"])
def test_a_described_size_is_the_shortest_that_is_read_back(size: str) -> None:
    assert SandboxOptions(tmp_size=parse_size(size)).describe() == f"tmp_size={size}"
