"""pytest-httpserver: its server is the session's, and answers as each test tells it."""

from __future__ import annotations

import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_httpserver")

PLUGINS = ("pytest_httpserver",)


def test_expectations_answers_and_what_was_asked(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        from urllib.error import HTTPError
        from urllib.request import urlopen
        import pytest

        def read(httpserver, path):
            with urlopen(httpserver.url_for(path)) as answer:
                return answer.read()

        def test_answers(httpserver):
            httpserver.expect_request("/word").respond_with_data("a word")
            assert read(httpserver, "/word") == b"a word"
            assert len(httpserver.log) == 1

        def test_begins_anew(httpserver):
            assert not httpserver.log
            with pytest.raises(HTTPError, match="500"):
                read(httpserver, "/word")
            with pytest.raises(AssertionError, match="No handler found"):
                httpserver.check_assertions()

        def test_handler(httpserver):
            asked = []
            def handle(request):
                asked.append(request.path)
                from werkzeug import Response
                return Response("handled")
            httpserver.expect_request("/handled").respond_with_handler(handle)
            assert read(httpserver, "/handled") == b"handled"
            assert asked == ["/handled"]

        def test_not_asked(httpserver):
            httpserver.expect_oneshot_request("/never").respond_with_data("never")
            with httpserver.wait(timeout=0.1):
                pass
        """
    )
    varying = [(re.compile(r"port=\d+|\[../.../.... ..:..:..\]"), "<varies>")]
    both(["-v"], varying=varying).runs[0].assert_outcomes(passed=3, failed=1)
