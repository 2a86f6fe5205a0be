"""Every example of the documentation that is a whole test module passes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> list[object]:
    """The whole modules on a page, each named by its line."""
    text, name = page.read_text(), page.relative_to(ROOT)
    return [
        pytest.param(match[1], id=f"{name}:{text.count(chr(10), 0, match.start()) + 1}")
        for match in BLOCK.finditer(text)
    ]


# The first has test_tutorial.py, the second test_hooks.py.
TOLD = ("tutorial.md", "plugins.md")
EXAMPLES = [example for page in PAGES if page.name not in TOLD for example in examples(page)]


@pytest.mark.parametrize("source", EXAMPLES)
def test_an_example_of_the_docs_passes(
    source: str, pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(source)
    result = run_pytest()
    outcomes = result.parseoutcomes()
    assert result.ret == 0, outcomes
    assert outcomes.get("passed", 0) > 0
