"""The comparison: the arms answer the same questions on the served model, and statistics decide."""
