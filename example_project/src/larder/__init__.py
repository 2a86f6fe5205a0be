"""A download cache for build scripts, with a daemon that starts on demand."""

__version__ = "0.4.1"
