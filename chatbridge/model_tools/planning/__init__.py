"""Tells what a model takes of a machine's memory before it is loaded, and what would make it fit."""
