"""A small language model behind OpenAI's HTTP interface, on a free port of this computer.

Run as a program by ``local_model``: says its address, then lives until its standard input ends.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path


def main(file: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who then lets go of us

    xllamacpp = import_module("xllamacpp")  # installed where the demo keeps its files
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {Path(file).stem.split(".")[0]}
    params.api_keys = [os.environ["MODEL_SERVER_KEY"]]
    params.ui = False
    params.n_ctx = 8192
    params.n_parallel = 4
    params.kv_unified = True  # whoever is alone has all of the context
    params.n_predict = 1024
    # Its threads wait for one another by spinning: one core too many, taken by somebody else, and all stand still.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(4, max(1, (os.cpu_count() or 1) - 1))
    params.sampling.temp = 0.4
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 - this is how the parent learns it
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
