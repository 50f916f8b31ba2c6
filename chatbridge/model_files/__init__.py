"""Files that models come in, read without trust: what backends of several engines share."""
