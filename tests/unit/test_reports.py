"""Of what the reports of an item have in common the second says nothing, and loses nothing by that."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nsbox.run import wire
from pytest_nsbox.run.reports import Said


class Unequal:
    """As an array of numpy is: what a comparison of it gives has no truth."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def data_of(when: str, **changes: Any) -> dict[str, Any]:
    return {
        "nodeid": "test_a.py::test_it",
        "location": ("test_a.py", 3, "test_it"),
        "keywords": {"test_it": 1, "test_a.py": 1},
        "outcome": "passed",
        "longrepr": None,
        "when": when,
        "user_properties": [],
        "sections": [],
        "duration": 0.5,
        "start": 1.0,
        "stop": 1.5,
        "$report_type": "TestReport",
        **changes,
    }


def told(*reports: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What of these is sent, and what the receiver makes of it."""
    sender, receiver = Said(), Said()
    sent, got = [], []
    for data in reports:
        left = sender.left_of(data)
        if left is not None:
            sender.keep(left)
        sent.append(data if left is None else left)
        got.append(receiver.completed(dict(sent[-1]), whole=left is None))
    return sent, got


def test_what_is_as_in_the_report_before_and_as_in_one_of_a_test_that_passes_is_not_said() -> None:
    reports = [data_of("setup"), data_of("call"), data_of("teardown")]
    sent, got = told(*reports)
    assert got == reports
    assert sent[0].keys() == {
        "nodeid", "location", "keywords", "when", "duration", "start", "stop",
    }  # fmt: skip
    assert sent[1] == {"when": "call", "duration": 0.5, "start": 1.0, "stop": 1.5}


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "failed", "longrepr": "it failed"},
        {"outcome": "skipped", "longrepr": ("test_a.py", 3, "why")},
        {"keywords": {"test_it": 1, "late": 1}},
        {"location": ("test_a.py", 9, "elsewhere")},
        {"user_properties": [("key", 3)]},
        {"sections": [("Captured stdout call", "text")]},
        {"wasxfail": "reason", "outcome": "skipped"},
        {"of_a_plugin": ["its", "own"]},
        {"user_properties": [("key", Unequal())]},
        {"keywords": {"test_it": Unequal()}},
        {"$report_type": "a plugin's own"},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_differs_is_said_and_again_when_it_is_as_before(changes: dict[str, Any]) -> None:
    reports = [
        data_of("setup"),
        data_of("call", **changes),
        data_of("call", **changes),
        data_of("teardown"),
    ]
    _, got = told(*reports)
    for one, other in zip(got, reports, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if any(isinstance(each, Unequal) for each in _inside(value)):
                assert [id(each) for each in _inside(one[name])] == list(map(id, _inside(value)))
            else:
                assert one[name] == value


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return [each for pair in value for each in pair] if isinstance(value, list) else []


def test_a_report_that_lacks_what_all_have_is_sent_as_it_is() -> None:
    without = data_of("call")
    del without["$report_type"]  # a plugin has a name of its own for that
    _, got = told(data_of("setup"), without, data_of("teardown"))
    assert got == [data_of("setup"), without, data_of("teardown")]


def test_what_a_plugin_adds_to_a_report_is_not_in_the_next() -> None:
    sender, receiver = Said(), Said()
    for when in ("setup", "call", "teardown"):
        left = sender.left_of(data_of(when))
        assert left is not None
        sender.keep(left)
        got = receiver.completed(left, whole=False)
        assert got == data_of(when)
        got["sections"].append(("added", "here"))
        got["user_properties"].append(("added", "here"))
        got["keywords"]["added"] = 1


def test_what_could_not_be_sent_is_not_said() -> None:
    said = Said()
    assert said.left_of(data_of("setup")) == said.left_of(data_of("setup"))


def test_a_first_report_that_says_nothing_is_refused() -> None:
    with pytest.raises(wire.Garbled, match=r"^not a report: nodeid is None$"):
        Said().completed({"when": "call", "duration": 0, "start": 0, "stop": 0}, whole=False)


def test_what_is_left_out_of_a_message_is_as_usual() -> None:
    message = {"type": "end", "goes_on": True, "ahead": False, "number": 0, "pages": [3]}
    brief = wire.brief(message)
    assert brief == {"type": "end", "goes_on": True, "pages": [3]}
    completed = wire.completed(brief)
    assert completed.items() >= message.items()
    assert completed["shouldfail"] is False
    assert completed["added"] == []
