"""One error for everything the rig cannot do; its text says what to do about it."""

from __future__ import annotations


class RigError(RuntimeError):
    """The rig could not be built, brought up or used."""
