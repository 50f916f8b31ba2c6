"""`python -m chatbridge` is the same as `chatbridge`."""

from chatbridge.cli import main

main()
