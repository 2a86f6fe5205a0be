"""The settings and the files they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Larder
from larder.config import ConfigError, Settings, load_settings, read_file, site_file, user_file

pytestmark = pytest.mark.sandbox


def test_defaults_without_any_file() -> None:
    assert load_settings() == Settings()


def test_the_site_file_is_read(larder: Larder) -> None:
    assert larder("config", "--site", "max_bytes=64M").code == 0
    assert "max_bytes = 67108864" in larder("config").out
    assert "max_bytes = 64M" in site_file().read_text()


def test_the_user_file_overrides_the_site_file(larder: Larder) -> None:
    larder("config", "--site", "idle_timeout=300")
    larder("config", "idle_timeout=120")
    assert load_settings().idle_timeout == 120
    user_file().unlink()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_bytes = 64Q", "max_bytes = '64Q': not a size"),
        ("port = 70000", "port = '70000': not a port"),
        ("colour = red", "unknown key 'colour'. Known keys: cache_dir, port"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "larder.conf"
    file.write_text(f"[larder]\n{line}\n")
    with pytest.raises(ConfigError, match=message) as excinfo:
        read_file(file)
    assert str(file) in str(excinfo.value)
