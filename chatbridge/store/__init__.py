"""What has to outlive the program, in one SQLite file: conversations as trees, and the messages that came and go."""

from chatbridge.store.inbox import Inbox, KeptAnswer, Received
from chatbridge.store.messages import Messages, Noted
from chatbridge.store.outbox import Letter, NewLetter, Outbox
from chatbridge.store.people import People, Person, Spent
from chatbridge.store.records import Conversation, Node
from chatbridge.store.store import Store

__all__ = [
    "Conversation",
    "Inbox",
    "KeptAnswer",
    "Letter",
    "Messages",
    "NewLetter",
    "Node",
    "Noted",
    "Outbox",
    "People",
    "Person",
    "Received",
    "Spent",
    "Store",
]
