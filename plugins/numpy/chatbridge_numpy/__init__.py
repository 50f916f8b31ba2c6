"""Runs LLaMA-architecture GGUF files in plain NumPy."""
