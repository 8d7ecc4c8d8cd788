"""Documents to passages, and documents to question-answer pairs."""
