"""From a model's chunks to messages in a chat: rendering, splitting, pace, and exactly one answer for each message."""
