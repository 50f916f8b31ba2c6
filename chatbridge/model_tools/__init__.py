"""Makes models out of others: fetches, decrypts, merges, converts and plans, with bounded memory. Runs no model."""
