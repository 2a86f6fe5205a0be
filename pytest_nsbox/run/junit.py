"""What a test records for --junitxml otherwise than in its report, brought home."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.junitxml import xml_key


class Recorded:
    """What the test process records by record_testsuite_property and record_xml_attribute."""

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.xml = item.config.stash.get(xml_key, None)
        self.known = len(self.xml.global_properties) if self.xml else 0

    def news(self) -> dict[str, Any] | None:
        """What has been recorded since the last time, for ``adopt``."""
        if self.xml is None:
            return None
        properties = self.xml.global_properties[self.known :]
        self.known += len(properties)
        return {"suite": properties, "case": self.xml.node_reporter(self.item.nodeid).attrs}


def adopt(item: pytest.Item, news: dict[str, Any] | None) -> None:
    """Record it here, where the XML is written."""
    xml = item.config.stash.get(xml_key, None)
    if xml is not None and news is not None:
        xml.global_properties += [(str(name), str(value)) for name, value in news["suite"]]
        if news["case"]:
            attributes = {str(name): str(value) for name, value in news["case"].items()}
            xml.node_reporter(item.nodeid).attrs.update(attributes)
