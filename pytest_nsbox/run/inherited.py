"""What the controller's share of a phase has put out and logged, joined to the test process's share."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.logging import caplog_records_key

_CHANNELS = ("stdout", "stderr", "log")  # in the order of pytest's sections

Section = tuple[str, str, str]  # phase, channel, text


class Inherited:
    """Output and log records of the controller's share of the setup, in the test process."""

    def __init__(self, item: Any, *, is_shared: bool) -> None:
        """``is_shared``: whether the controller had a share in the setup; else there is nothing."""
        self.item = item
        self.is_shared = is_shared
        self.plugins = item.config.pluginmanager
        self.records: list[Any] = []
        self.logs: list[str] = []
        self.output: dict[str, str] = {}
        if is_shared:
            self.records += item.stash.get(caplog_records_key, {}).get("setup", ())
            self.logs = [handler.stream.getvalue() for handler in self._handlers()]
            self.output = {key: text for _, key, text in item._report_sections if key != "log"}
            item._report_sections.clear()

    def take_place(self) -> None:
        """Come after what setup hooks have put out and logged, before what fixtures will."""
        if not self.is_shared:
            return
        for handler, text in zip(self._handlers(), self.logs, strict=True):
            handler.records.extend(self.records)
            handler.stream.write(text)
        self.records = []
        for key, text in zip(_CHANNELS, self._captured(), strict=False):
            self.output[key] = text + self.output.get(key, "")

    def of_hooks(self) -> list[Section]:
        """What setup hooks have put out and logged, before fixtures are set up."""
        texts = [*self._captured(), *(handler.stream.getvalue() for handler in self._handlers())]
        return [
            ("setup", key, text.strip() if key == "log" else text)
            for key, text in zip(_CHANNELS, texts, strict=False)
        ]

    def _captured(self) -> tuple[str, str]:
        capture = self.plugins.getplugin("capturemanager")
        if capture is None or capture._global_capturing is None:
            return "", ""
        out, err = capture.read_global_capture()
        return out, err

    def complete(self) -> None:
        """Add the output to the sections of the setup, which has ended."""
        if not self.is_shared:
            return
        ours = [("setup", key, text) for key, text in self.output.items()]
        self.item._report_sections[:] = joined(ours, self.item._report_sections)

    def _handlers(self) -> list[Any]:
        return _handlers(self.item.config)


def _handlers(config: pytest.Config) -> list[Any]:
    logging: Any = config.pluginmanager.getplugin("logging-plugin")
    return [logging.caplog_handler, logging.report_handler] if logging else []


def forget(config: pytest.Config) -> None:
    """Have nothing inherited of the log: the controller has no share of this setup."""
    for handler in _handlers(config):
        handler.reset()


def joined(first: list[Section], second: list[Section]) -> list[Section]:
    """The sections of one phase, the same channel's in one."""
    texts: dict[tuple[str, str], list[str]] = {}
    for when, key, text in [*first, *second]:
        if text:
            texts.setdefault((when, key), []).append(text)
    order = sorted(texts, key=lambda name: _CHANNELS.index(name[1]) if name[1] in _CHANNELS else 9)
    return [(*name, ("\n" if name[1] == "log" else "").join(texts[name])) for name in order]


def add_to_report(report: pytest.TestReport, sections: list[Section]) -> None:
    """Join the sections of a report's phase with what the controller's share of it has put out."""
    of_phase = {f"Captured {key} {report.when}": key for key in _CHANNELS}
    places = [n for n, (title, _) in enumerate(report.sections) if title.startswith("Captured ")]
    mine = [
        (str(report.when), of_phase[title], text)
        for title, text in report.sections
        if title in of_phase
    ]
    others = [section for section in report.sections if section[0] not in of_phase]
    end = places[-1] + 1 - len(mine) if places else 0
    new = [(f"Captured {key} {when}", text) for when, key, text in joined(mine, sections)]
    report.sections[:] = [*others[:end], *new, *others[end:]]
