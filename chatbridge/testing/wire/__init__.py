"""What the stand-in servers share: HTTP, WebSockets, faults, the record of calls. Knows no service."""
