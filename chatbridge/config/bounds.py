"""The bounds of a model's process unless bots.yaml sets others. Knows no setting: a worker imports this and no more."""

from __future__ import annotations

HANG_TIMEOUT = 30.0
"""Seconds without a sign of life after which a worker hangs, unless told otherwise; see `worker.watchdog`."""

KEPT_STATES = 1 << 30
"""Bytes that states of conversations may have which are not being answered, unless told otherwise: 1 GiB."""
