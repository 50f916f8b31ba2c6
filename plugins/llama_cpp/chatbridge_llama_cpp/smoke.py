"""Computes one token with a small model, in a process of its own: `python -m chatbridge_llama_cpp.smoke FILE`.

GCC before 13.2 leaves out what llama.cpp writes for AMX, and such a build crashes at the first multiplication
(ggml-org/llama.cpp#20824). Nothing in the build tells, so it is tried where a crash does no harm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

from chatbridge import child_environment, guide_path


@cache
def survives_repacking() -> bool:
    """Whether this build can lay weights out anew for this processor without crashing."""
    from chatbridge_llama_cpp.native import build_flags

    if "AMX_INT8" not in build_flags()["instructions"]:
        return True
    environment = {
        **child_environment(),
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", __name__, str(guide_path())]
    return subprocess.run(command, capture_output=True, env=environment, check=False).returncode == 0


def compute(path: str) -> int:
    """0 where llama.cpp computes a few tokens of the model in `path`."""
    import ctypes

    from chatbridge_llama_cpp.native import lib, log

    log()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    context = lib.llama_init_from_model(model, lib.llama_context_default_params())
    tokens = (ctypes.c_int32 * 4)(5, 6, 7, 8)
    return int(lib.llama_decode(context, lib.llama_batch_get_one(tokens, 4)))


if __name__ == "__main__":
    sys.exit(compute(sys.argv[1]))
