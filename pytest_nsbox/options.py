"""PLACEHOLDER (the real one is being written; overwrite)."""
from __future__ import annotations
from dataclasses import dataclass, field
class OptionError(ValueError): pass
@dataclass(frozen=True)
class SandboxOptions:
    tmp_size: int | None = None
    network: str = "host"
    timeout: float | None = None
    bind: tuple = ()
    hide: tuple = ()
    hostname: str | None = None
    keep: tuple = ()
    _env: tuple = ()
    @property
    def env(self): return dict(self._env)
    def describe(self): return ""
class Key:
    def __init__(s, name, ini_type): s.name=name; s.help=name; s.ini_type=ini_type
    def parse_ini(s, v): return v
KEYS={n: Key(n,t) for n,t in [("tmp_size","string"),("network","string"),("timeout","string"),("env","linelist"),("bind","linelist"),("hide","linelist"),("hostname","string"),("keep","linelist")]}
def from_ini(get): return {}
def merge(layers):
    d={}
    for l in layers: d.update(l)
    if "env" in d: d["_env"]=tuple(d.pop("env").items())
    return SandboxOptions(**d)
