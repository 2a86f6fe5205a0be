"""Fixtures that tell of themselves: in which order they are set up and torn down, and for which test."""

from __future__ import annotations

from collections.abc import Sequence


def speakers(scopes: Sequence[str]) -> str:
    """A conftest with three for each scope: a plain one, one with parameters, one to be given them."""
    return f"""
    import os
    import pytest

    def speaker(scope, name, params=None):
        @pytest.fixture(scope=scope, name=name, params=params)
        def fixture(request):
            value = f"{{name}} {{getattr(request, 'param', '')}}"
            print(value, "up", os.environ["PYTEST_CURRENT_TEST"])
            request.addfinalizer(lambda: print(value, "finalized"))
            yield value
            print(value, "down", os.environ["PYTEST_CURRENT_TEST"])
        return fixture

    for scope in {list(scopes)}:
        globals()[scope + "_fixture"] = speaker(scope, scope)
        globals()[scope + "_param"] = speaker(scope, scope + "_param", ["a", "b"])
        globals()[scope + "_indirect"] = speaker(scope, scope + "_indirect")
"""
