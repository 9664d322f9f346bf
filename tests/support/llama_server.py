"""llama.cpp's own OpenAI-compatible server over the tiny model, as a process: an upstream that is nobody's fake.

python -m tests.support.llama_server PORT MODEL.gguf
"""

import signal
import sys
import threading

import xllamacpp


def main() -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    params = xllamacpp.CommonParams()
    params.port = int(sys.argv[1])
    params.model.path = sys.argv[2]
    params.n_parallel = 2
    params.n_ctx = 2 * 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    params.n_threads_http = 4
    params.fit_params = params.warmup = params.ui = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    ended.wait()
    del server


if __name__ == "__main__":
    main()
