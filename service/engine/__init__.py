"""The inference engine: a supervised child process that owns llama.cpp, and what can stand in for it.

``Engine`` serves one local model, ``openai.OpenAIGenerator`` is any server of OpenAI's protocol
in its place, ``models.ModelRegistry`` turns a name, a path or a hub id into a model file.
"""

from service.engine.engine import Engine, EngineOptions

__all__ = ["Engine", "EngineOptions"]
