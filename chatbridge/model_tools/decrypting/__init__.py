"""Decrypts weights that were published encrypted."""
