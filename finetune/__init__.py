"""Question-answer pairs to a LoRA adapter to GGUF."""
