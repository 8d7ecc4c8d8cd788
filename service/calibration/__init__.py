"""Calibrated abstention: what an answer's confidence is, and below which confidence none is given."""
