"""Runs a `LocalModel` for many conversations: scheduler, prefix cache, detokenizer. Knows no process."""
