"""The process that a model lives in, and those who start it, talk to it and share it."""
