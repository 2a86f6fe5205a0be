"""pytest-benchmark: what was measured in sandboxes is in its table and in its files."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_benchmark")

PLUGINS = ("benchmark",)

SUITE = """
    import time
    import pytest

    def work(number=10):
        return sum(range(number))

    def test_plain(benchmark):
        benchmark.extra_info["note"] = {"of": ["the", "test"]}
        assert benchmark(work) == 45

    @pytest.mark.parametrize("number", [10, 20])
    @pytest.mark.benchmark(group="grouped", timer=time.process_time, min_rounds=3, max_time=0.01)
    def test_number(benchmark, number):
        benchmark(work, number)

    def test_pedantic(benchmark):
        benchmark.pedantic(work, rounds=7, iterations=2)

    def test_fails(benchmark):
        benchmark(lambda: 1 / 0)

    def test_not_one():
        pass
"""
# Numbers, and the widths of columns made of them.
VARYING = [
    (re.compile(r"^(test_\w+(?:\[\d+\])?) .*$", re.MULTILINE), r"\1 numbers"),
    (re.compile(r"^Name \(time in .*$", re.MULTILINE), "Name"),
    (re.compile(r"(?<=: \d tests$).*|^-+$", re.MULTILINE), ""),
    (re.compile(r"^-+ (benchmark.*?) -+$", re.MULTILINE), r"\1"),
    # The order is by the fastest.
    (re.compile(r"(?:^test_\w+(?:\[\d+\])? numbers\n)+", re.MULTILINE), "rows\n"),
    (re.compile(r"\d{8}_\d{6}"), "<date>"),
    (re.compile(r"^\d+\t.*$|^ncalls.*$", re.MULTILINE), ""),
    (re.compile(r"\n\n+"), "\n"),
]


def test_the_table_and_the_files_arrive(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    bare, boxed = both.seen(
        ["--benchmark-json=out.json", "--benchmark-max-time=0.01", "--benchmark-save=first"],
        ["--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-compare"],
        varying=VARYING,
    )
    table = str(boxed.runs[0].stdout)
    for name in ("test_plain", "test_number[10]", "test_number[20]", "test_pedantic"):
        assert re.search(rf"^{re.escape(name)} +\d", table, re.MULTILINE), table
    boxed.runs[1].stdout.fnmatch_lines(["*test_plain (0001_first)*"])

    def described(text: str) -> list[dict[str, object]]:
        found = []
        for benchmark in json.loads(text)["benchmarks"]:
            stats = benchmark.pop("stats")
            assert stats["rounds"] == len(stats["data"])
            assert stats["min"] > 0
            found.append(benchmark | {"fields": sorted(stats)})
        return found

    assert described(boxed.files["out.json"]) == described(bare.files["out.json"])
    pedantic = json.loads(boxed.files["out.json"])["benchmarks"][-1]["stats"]
    assert (pedantic["rounds"], pedantic["iterations"]) == (7, 2)


def test_profiles_and_their_files_arrive(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    seen = both(
        ["-k", "test_pedantic", "--benchmark-cprofile=ncalls", "--benchmark-cprofile-dump=out/p"],
        varying=VARYING,
    )
    seen.runs[0].stdout.fnmatch_lines(["*cProfile (time in s)*", "*(work)"])
    assert "out/p-test_pedantic.prof" in seen.files


def test_disabled_and_skipped_benchmarks(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    disabled, skipped = both(["--benchmark-disable"], ["--benchmark-skip"], varying=VARYING).runs
    disabled.assert_outcomes(passed=5, failed=1)
    skipped.assert_outcomes(passed=1, skipped=5)
