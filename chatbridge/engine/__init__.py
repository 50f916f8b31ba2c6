"""Runs a `LocalModel` for many conversations: scheduler, prefix cache, text assembly, worker process."""
