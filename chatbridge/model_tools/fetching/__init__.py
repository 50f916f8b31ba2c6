"""Fetches models: from Hugging Face, by an address, or by a name of the catalogue; whole or not at all."""
