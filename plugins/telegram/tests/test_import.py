"""The library that speaks to Telegram is imported while the program's other bots go on."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys, threading
import chatbridge_telegram

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "telegram":
            threads.append(threading.current_thread() is threading.main_thread())

async def main():
    try:
        await chatbridge_telegram._run(None, None)
    except Exception:
        pass  # nothing was given to run: that comes behind the import

threads = []
sys.meta_path.insert(0, Watch())
asyncio.run(main())
assert "telegram" in sys.modules
print(threads)
"""


def test_the_library_is_imported_on_another_thread() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False]"
