"""What flows through ragtune and what is kept: records, protocols, errors, prompts, files, store."""
