#!/usr/bin/env python3
"""xllamacpp's server (llama.cpp's own, in this process) under the arguments that ``bench.serving`` gives llama-server.

    python -m bench.serving --llama-server bench/xllamacpp_server.py

xllamacpp is not among our dependencies: name an interpreter that has it with ``XLLAMACPP_PYTHON``. Knows nothing of
what is asked.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("-m", "--host", "--lora"):
        parser.add_argument(name)
    for name in ("--port", "-np", "-c", "-t", "-tb"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = given.m
    parameters.hostnames, parameters.port = [given.host], given.port
    parameters.n_parallel, parameters.n_ctx = given.np, given.c
    parameters.cpuparams.n_threads, parameters.cpuparams_batch.n_threads = given.t, given.tb
    if given.lora:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(given.lora, 1.0)]
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    python = os.environ.get("XLLAMACPP_PYTHON")
    if python and os.environ.get("XLLAMACPP_STARTED") != python:
        os.execve(python, [python, *sys.argv], {**os.environ, "XLLAMACPP_STARTED": python})
    main()
