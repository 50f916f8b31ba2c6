"""What has to outlive the program, in one SQLite file: conversations as trees, and the messages that came and went."""

from chatbridge.store.access import Pairing, Pairings
from chatbridge.store.cursors import Cursors
from chatbridge.store.inbox import Inbox, InboxItem
from chatbridge.store.message_index import KeptAnswer, MessageIndex, MessageRef
from chatbridge.store.outbox import NewOutboxMessage, Outbox, OutboxMessage
from chatbridge.store.records import Conversation, Node
from chatbridge.store.store import Store
from chatbridge.store.usage import DailyUsage, UsageLog

__all__ = [
    "Conversation",
    "Cursors",
    "DailyUsage",
    "Inbox",
    "InboxItem",
    "KeptAnswer",
    "MessageIndex",
    "MessageRef",
    "NewOutboxMessage",
    "Node",
    "Outbox",
    "OutboxMessage",
    "Pairing",
    "Pairings",
    "Store",
    "UsageLog",
]
