"""The same run bare and sandboxed: a dialogue with the debugger, on a terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameDialogue = Callable[..., list[str]]

PDB = r"\(Pdb\) "

SUITE = """
    import pytest

    @pytest.fixture(scope="module")
    def broad(): print("broad up"); yield 5; print("broad down")
    @pytest.fixture
    def narrow(): print("narrow up"); yield; print("narrow down")

    def test_fails(broad, narrow):
        local = broad + 1
        print("put out")
        assert local == 7
    def test_passes(broad): pass
"""

STOPPING = """
    import pytest

    def test_stops():
        print("before")
        value = "the value"
        breakpoint()
        print("after")
    def test_other(): assert 1 == 2
    def test_asks(): assert input("your name? ") == "nobody"
"""


IN_FIXTURES = """
    import pytest

    @pytest.fixture(scope="module")
    def broad():
        value = "broad up"
        breakpoint()
        yield
        value = "broad down"
        pytest.set_trace()

    @pytest.fixture
    def narrow(broad):
        value = "narrow up"
        breakpoint()
        yield
        value = "narrow down"
        breakpoint()
        print("after")

    def test_it(narrow): print("in the test")
    def test_other(broad): pass
"""


@pytest.mark.parametrize(
    ("suite", "args", "dialogue"),
    [
        (SUITE, ["--pdb"], [(PDB, "p local"), (PDB, "c")]),
        (SUITE, ["--pdb", "-v", "--tb=short"], [(PDB, "q")]),
        (SUITE, ["--pdb", "-s", "--color=yes"], [(PDB, "w"), (PDB, "c")]),
        (SUITE, ["--trace"], [(PDB, "n"), (PDB, "p broad"), (PDB, "c"), (PDB, "c")]),
        (STOPPING, ["-k", "not asks"], [(PDB, "p value"), (PDB, "n"), (PDB, "c")]),
        (STOPPING, ["-k", "not asks", "-rA"], [(PDB, "q")]),
        (STOPPING, ["-k", "stops", "-s"], [(PDB, "n"), (PDB, "c")]),
        (STOPPING, ["-k", "asks", "-s"], [("name. ", "nobody")]),
        (IN_FIXTURES, [], [(PDB, "p value"), (PDB, "c")] * 4),
        (IN_FIXTURES, ["-s", "-v"], [(PDB, "p value"), (PDB, "c")] * 4),
    ],
    ids=str,
)
def test_a_dialogue(
    pytester: pytest.Pytester,
    same_dialogue_as_bare: SameDialogue,
    suite: str,
    args: list[str],
    dialogue: list[tuple[str, str]],
) -> None:
    pytester.makepyfile(test_it=suite)
    same_dialogue_as_bare(dialogue, *args)


def test_the_debugger_in_a_broad_fixture_and_in_unittest(
    pytester: pytest.Pytester, same_dialogue_as_bare: SameDialogue
) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.fixture(scope="module")
        def broken(): raise ValueError("no fixture")
        def test_broken(broken): pass

        class TestCase(unittest.TestCase):
            def setUp(self): self.value = "kept"
            def tearDown(self): self.value = None
            def test_fails(self): self.fail("no")
        """
    )
    same_dialogue_as_bare(
        [(PDB, "p broken"), (PDB, "c"), (PDB, "p self.value"), (PDB, "c")], "--pdb"
    )
