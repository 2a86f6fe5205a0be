"""pytest-html: its report has what tests have put out and added, and where it was asked for."""

from __future__ import annotations

import html
import json
import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_html")

PLUGINS = ("metadata", "html", "html_fixtures")

SUITE = """
    import logging
    import pytest
    import pytest_html

    @pytest.fixture(scope="module")
    def broad():
        print("broad setup")
        yield
        print("broad teardown")

    def test_output(broad):
        print("printed in the call")
        logging.getLogger("suite").warning("logged in the call")

    def test_extras(extras):
        extras.append(pytest_html.extras.text("added text"))
        extras.append(pytest_html.extras.url("https://example.org/added"))
        extras.append(pytest_html.extras.json({"added": [1, 2]}))
        extras.append(pytest_html.extras.html("<div>added html</div>"))
        extras.append(pytest_html.extras.png("iVBORw0KGgo="))

    def test_fails(broad):
        print("printed before the failure")
        assert "this" == "that"

    @pytest.mark.skip(reason="not today")
    def test_skipped():
        pass

    @pytest.mark.xfail(strict=True)
    def test_xfailed():
        assert False

    @pytest.fixture
    def broken():
        raise RuntimeError("broken")

    def test_error(broken):
        pass
"""

CONFTEST = """
    import pytest
    import pytest_html

    def pytest_html_report_title(report):
        report.title = "a title of its own"

    def pytest_html_results_table_header(cells):
        cells.insert(2, "<th>Note</th>")

    def pytest_html_results_table_row(report, cells):
        cells.insert(2, f'<td class="col-note">{getattr(report, "note", "")}</td>')

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        report.note = f"note of {item.name}"
        if report.when == "call":
            report.extras = [*getattr(report, "extras", []), pytest_html.extras.text("by a hook")]
        return report
"""


def lines_of(page: str) -> list[str]:
    """What the report says of the tests; its page shows that by a script."""
    found = re.search(r'data-jsonblob="([^"]*)"', page)
    assert found, page[:1000]
    data = json.loads(html.unescape(found[1]))
    text = json.dumps(data["tests"], indent=1)
    for pattern in (r"\d+ ms", r"-+ sandbox -+\\n(?:(?!---|\").)*", r"0x\w+"):
        text = re.sub(pattern, "", text)
    return text.splitlines()


@pytest.mark.parametrize(
    "options", [["--self-contained-html"], []], ids=["one file", "with assets"]
)
def test_the_report_arrives_with_output_and_extras(
    options: list[str], pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    args = ["--html=out/report.html", *options]
    bare, boxed = both.seen(args)
    assert lines_of(boxed.files["out/report.html"]) == lines_of(bare.files["out/report.html"])
    for text in ("printed in the call", "logged in the call", "added html", "note of test_output"):
        assert text in boxed.files["out/report.html"]
    assert sorted(boxed.files) == sorted(bare.files)
