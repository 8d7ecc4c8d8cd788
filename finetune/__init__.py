"""Question-answer pairs to a LoRA adapter to GGUF."""

import os

# OpenMP's waiting threads spin by default: on cores that others use too, each waits for a spinning one (a
# training step took 33 s there, 5 s without spinning). Sleeping at once costs on idle cores, a short spin on
# neither, as service/engine/llama.py measured. libgomp reads this when torch is loaded, so it stands here.
os.putenv("GOMP_SPINCOUNT", "3000")
