"""pytest-flask: its clients and contexts; a live server is the controller's child."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_flask")

PLUGINS = ("flask",)


def test_clients_contexts_and_servers(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makeconftest(
        """
        import flask
        import pytest

        @pytest.fixture(scope="session")
        def app():
            app = flask.Flask(__name__)
            app.config.update(SECRET_KEY="not so secret", TESTING=True)
            app.visits = 0

            @app.get("/")
            def index():
                app.visits += 1
                return {"visits": app.visits, "word": flask.request.args.get("word")}

            return app
        """
    )
    pytester.makepyfile(
        """
        import urllib.request
        import flask
        import pytest

        def test_client(client):
            assert client.get("/?word=a").json == {"visits": 1, "word": "a"}

        def test_context(client):
            flask.session["word"] = "kept"
            assert flask.request.path == "/"

        def test_config(config):
            assert config["TESTING"]

        @pytest.mark.options(debug=True)
        def test_options(app):
            assert app.debug

        def test_accept(client, accept_json):
            assert client.get("/", headers=accept_json).mimetype == "application/json"

        def test_fails(client):
            assert client.get("/missing").status_code == 200

        def test_live_server(live_server):
            answer = urllib.request.urlopen(live_server.url("/?word=b"))
            assert b'"word":"b"' in answer.read()

        @pytest.mark.usefixtures("live_server")
        class TestLive:
            def test_again(self, live_server):
                answer = urllib.request.urlopen(live_server.url("/"))
                assert answer.status == 200
        """
    )
    both(["-v"]).runs[0].assert_outcomes(passed=7, failed=1)
