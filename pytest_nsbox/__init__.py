"""pytest-nsbox: a machine of its own for a test."""

__version__ = "0.1.0"
