"""pytest-httpserver: a server in a thread, which is to answer as the test in its memory has told it."""

from __future__ import annotations

import pytest

_SERVERS = ("make_httpserver", "make_httpserver_ipv4", "make_httpserver_ipv6")


class Adapter:
    """Has each test process start the session's server for itself."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_fixtures(self) -> dict[str, bool]:
        return dict.fromkeys(_SERVERS, False)
