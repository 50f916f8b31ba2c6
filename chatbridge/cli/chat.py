"""`chatbridge chat`: another name of `chatbridge repl`, by which people of other programs look for it."""

from __future__ import annotations

from chatbridge.cli.repl import command

__all__ = ["command"]
