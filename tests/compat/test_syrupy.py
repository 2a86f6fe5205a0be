"""syrupy: snapshots are written on the host, its report is of all tests."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("syrupy")

PLUGINS = ("syrupy",)

SUITE = """
    import pytest
    from syrupy.extensions.json import JSONSnapshotExtension
    from syrupy.extensions.image import PNGImageSnapshotExtension
    from syrupy.extensions.single_file import SingleFileSnapshotExtension

    VALUE = "{value}"

    def test_amber(snapshot):
        assert {{"value": VALUE}} == snapshot
        assert "named" == snapshot(name="by name")
        assert "the same" == snapshot

    @pytest.mark.parametrize("number", [1, 2])
    def test_number(snapshot, number):
        assert number == snapshot

    class TestClass:
        def test_method(self, snapshot):
            assert [VALUE] == snapshot

    def test_json(snapshot):
        assert {{"value": VALUE}} == snapshot.use_extension(JSONSnapshotExtension)

    def test_bytes(snapshot):
        assert b"\\x89\\xff" + VALUE.encode() == snapshot(extension_class=SingleFileSnapshotExtension)

    @pytest.mark.xfail
    def test_xfailed(snapshot):
        assert "not there" == snapshot(name="missing")
        raise RuntimeError
"""
GONE = """
    def test_gone(snapshot):
        assert "gone" == snapshot
"""


def test_snapshots_are_made_used_updated_and_removed(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(test_a=SUITE.format(value="one") + GONE)
    made = both([], ["--snapshot-update"], ["--snapshot-details"])
    assert "__snapshots__/test_a.ambr" in made.files
    assert "__snapshots__/test_a/test_json.json" in made.files
    assert [run.ret for run in made.runs] == [1, 0, 0]
    made.runs[1].stdout.fnmatch_lines(["10 snapshots generated*"])
    made.runs[2].stdout.fnmatch_lines(["10 snapshots passed*"])

    # The suite changes; its snapshots are now part of what both begin with.
    pytester.makepyfile(test_a=SUITE.format(value="two"))
    changed = both(["--snapshot-details"], ["--snapshot-update", "--snapshot-details"], [])
    assert [run.ret for run in changed.runs] == [1, 0, 0]
    changed.runs[0].stdout.fnmatch_lines(["*3 snapshots unused*"])
    changed.runs[1].stdout.fnmatch_lines(["*4 snapshots updated. 1 unused snapshot deleted.*"])
    assert "gone" not in changed.files["__snapshots__/test_a.ambr"]
