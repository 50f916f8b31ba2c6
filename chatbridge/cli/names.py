"""The names of our own commands and their help lines, so that listing the commands imports none of them."""

from __future__ import annotations

COMMANDS = {
    "chat": "The same as repl.",
    "check": "Check bots.yaml and list every complaint.",
    "doctor": "Look over this machine, the plugins and the settings; say what to do.",
    "forget": "Delete what somebody said, or what was said in a channel.",
    "init": "Write a first bots.yaml: asks for service, token, model and admins.",
    "model": "Fetch, look at, plan and convert model files.",
    "plugins": "List plugins, what each offers, and the broken ones.",
    "queue": "List messages that wait or were given up; retry or drop them.",
    "repl": "Talk to a model in this terminal.",
    "run": "Start the bots of bots.yaml.",
    "schema": "Print the JSON Schema of bots.yaml for editors.",
    "templates": "List prompt templates, or show one at work.",
}
