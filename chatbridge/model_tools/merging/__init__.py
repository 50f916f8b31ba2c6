"""Merges adapters into models, and converts LLaMA between Meta's form and Hugging Face's."""
