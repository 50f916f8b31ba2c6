"""What whoever looks after the bots sees: logs without secrets, metrics, health. Knows bots; decides nothing."""
