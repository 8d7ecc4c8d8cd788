"""llama.cpp through llama-cpp-python's low-level API: the only folder that imports ``llama_cpp``.

Meant for a child process: a damaged file may crash it.
"""

from service.engine.llama.backend import LLAMA_VERSION, start_backend
from service.engine.llama.context import KV_TYPES, ContextOptions, LlamaContext, Run, State
from service.engine.llama.grammar import LlamaGrammar, schema_to_gbnf
from service.engine.llama.model import LlamaAdapter, LlamaModel, Rope
from service.engine.llama.quantize import quantize_file

__all__ = [
    "KV_TYPES",
    "LLAMA_VERSION",
    "ContextOptions",
    "LlamaAdapter",
    "LlamaContext",
    "LlamaGrammar",
    "LlamaModel",
    "Rope",
    "Run",
    "State",
    "quantize_file",
    "schema_to_gbnf",
    "start_backend",
]
