"""Makes GGUF files of published models, of adapters, and of files from before GGUF."""
