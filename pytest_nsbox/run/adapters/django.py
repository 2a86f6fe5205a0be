"""pytest-django: its marker asks for the test database when the test is already being set up."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from pytest_django.lazy_django import django_settings_is_configured


class Adapter:
    """Has the database created once, and each test process use it by a connection of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self.inherited: list[Any] = []
        self.has_entered = False  # a test process, which has connections of its own since

    @pytest.hookimpl
    def pytest_nsbox_fixtures(self, item: pytest.Item) -> dict[str, bool]:
        serves = "live_server" in getattr(item, "fixturenames", ())
        wants = serves or item.get_closest_marker("django_db") is not None
        # The server shares the test's connection, and the leave to use it.
        return {"live_server": False, "django_db_setup": True} if wants else {"live_server": False}

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        if self.has_entered or not django_settings_is_configured():
            return
        self.has_entered = True
        for connection in connections.all(initialized_only=True):
            in_memory = getattr(connection, "is_in_memory_db", bool)()
            # A class's transaction is only where it was begun.
            if connection.connection is not None and not (in_memory or connection.in_atomic_block):
                # Not closed: a server would take that for the controller's farewell.
                self.inherited.append(connection.connection)
                connection.connection = None
