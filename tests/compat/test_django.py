"""pytest-django: the test database is made once; what a test writes to it stays in the sandbox."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_django")

PLUGINS = ("django",)

SETTINGS = """
    SECRET_KEY = "not so secret"
    DATABASES = {{
        "default": {{
            "ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "TEST": {{"NAME": {test}}}
        }}
    }}
    INSTALLED_APPS = ["shop"]
    ROOT_URLCONF = "urls"
    STATIC_URL = "static/"
    ALLOWED_HOSTS = ["*"]
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
    USE_TZ = True
"""

SUITE = """
    import threading
    import urllib.request
    import pytest
    from django.core import mail
    from django.core.signals import request_finished
    from django.test import TestCase, TransactionTestCase
    from shop.models import Item

    @pytest.mark.django_db
    def test_write():
        Item.objects.create(name="one")
        assert Item.objects.count() == 1

    @pytest.mark.django_db
    def test_rolled_back():
        assert Item.objects.count() == 0

    def test_forbidden():
        Item.objects.count()

    @pytest.mark.django_db(transaction=True)
    def test_transaction():
        Item.objects.create(name="one")
        assert Item.objects.count() == 1

    @pytest.mark.django_db
    def test_client(client, settings, mailoutbox, django_assert_num_queries):
        Item.objects.create(name="listed")
        settings.GREETING = "hello"
        with django_assert_num_queries(1):
            assert client.get("/").content == b"hello listed"
        mail.send_mail("subject", "body", "a@example.org", ["b@example.org"])
        assert mailoutbox[0].subject == "subject"

    class TestUnit(TestCase):
        @classmethod
        def setUpTestData(cls):
            cls.item = Item.objects.create(name="of the class")

        def test_one(self):
            self.item.name = "changed"
            self.item.save()

        def test_two(self):
            self.assertContains(self.client.get("/"), "of the class")

    class TestTransactions(TransactionTestCase):
        def test_one(self):
            Item.objects.create(name="one")
            assert Item.objects.count() == 1

    def test_live_server(live_server):
        # At the end of a request the server looks at the database, which a test must outlive.
        finished = threading.Semaphore(0)
        request_finished.connect(lambda **_: finished.release(), weak=False)
        print(urllib.request.urlopen(live_server.url + "/").read())
        assert finished.acquire(timeout=60)
        urllib.request.urlopen(live_server.url + "/prints")
        assert finished.acquire(timeout=60)
"""


@pytest.mark.parametrize("database", [None, "test.sqlite3"], ids=["in memory", "in a file"])
def test_databases_clients_and_servers(
    database: str | None, pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(
        **{
            "settings": SETTINGS.format(test=repr(database)),
            "urls": """
                from django.conf import settings
                from django.http import HttpResponse
                from django.urls import path
                from shop.models import Item

                def index(request):
                    names = " ".join(Item.objects.values_list("name", flat=True))
                    return HttpResponse(f"{getattr(settings, 'GREETING', '-')} {names}")

                def prints(request):
                    print("printed by the server")
                    return HttpResponse()

                urlpatterns = [path("", index), path("prints", prints)]
            """,
            "shop/__init__": "",
            "shop/models": """
                from django.db import models

                class Item(models.Model):
                    name = models.CharField(max_length=50)
            """,
            "test_shop": SUITE,
        }
    )
    run = both(["-v", "--ds=settings"]).runs[0]
    run.assert_outcomes(passed=8, failed=1)
    assert str(run.stdout).count("Creating test database") == 1
