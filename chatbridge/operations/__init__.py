"""For whoever runs the bots: logs without secrets, metrics, health, the dry run. Knows bots; decides nothing."""
