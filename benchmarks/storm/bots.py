"""The process of the bots: `bots.py chatbridge|plain FOLDER`. Tells of its event loop's lag and of its memory.

FOLDER/addresses.json says where the services are. Measures from the first line of standard input to its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import yaml
from plain import PLAIN

from chatbridge import Bridge, Plugins, SettingsSource
from chatbridge.operations.logs import Redactor
from chatbridge.operations.service import serve

BEAT = 0.01
OPTIONS = {"discord": {"commands": "none"}, "telegram": {"menu": False}}
DEFAULTS = {"language": "en", "sampling": {"temperature": 0, "max_tokens": 80}}


async def main(kind: str, folder: Path) -> None:
    """Serve, and measure meanwhile."""
    addresses = json.loads((folder / "addresses.json").read_text())
    config = folder / "bots.yaml"
    bots = {name: {"frontend": name, **OPTIONS[name], **address} for name, address in addresses.items()}
    config.write_text(yaml.safe_dump({"store": str(folder / "store"), "defaults": DEFAULTS, "bots": bots}))
    lags: list[float] = []
    sizes: list[int] = []
    for work in (measure(lags, sizes), by_chatbridge(config) if kind == "chatbridge" else plainly(config, addresses)):
        task = asyncio.create_task(work)
        task.add_done_callback(lambda task: task.result())
    await asyncio.to_thread(sys.stdin.readline)
    lags.clear()  # what was before the storm: imports, the model's loading
    sizes[:] = [resident()]
    await asyncio.to_thread(sys.stdin.read)
    lags.sort()
    sizes.append(resident())
    memory = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    found = {"lag_p99": lags[int(len(lags) * 0.99)], "lag_max": lags[-1], "memory": memory}
    print(json.dumps(found), flush=True)
    os._exit(0)  # a plain bot waits for its penalties to be over, which may be tomorrow


async def by_chatbridge(config: Path) -> None:
    """What `chatbridge run` does."""
    await serve(config, (), Redactor())


async def plainly(config: Path, addresses: dict[str, dict[str, str]]) -> None:
    """A plain bot on each service, on the same model."""
    plugins = Plugins()
    async with Bridge(SettingsSource.of_file(config, plugins), plugins) as bridge:
        await asyncio.gather(*(PLAIN[name](bridge.bot(name), **address) for name, address in addresses.items()))


async def measure(lags: list[float], sizes: list[int]) -> None:
    """Look at the clock a hundred times a second, and at the memory once a second."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(BEAT)
        lags.append(time.perf_counter() - before - BEAT)
        if len(lags) % 100 == 0:
            sizes.append(resident())


def resident() -> int:
    """Memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR if sys.argv[1] == "chatbridge" else logging.CRITICAL)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
