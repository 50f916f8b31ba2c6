"""Conversations on disk: a tree of messages for each, in one SQLite file."""

from chatbridge.store.records import Conversation, Node
from chatbridge.store.store import Store

__all__ = ["Conversation", "Node", "Store"]
