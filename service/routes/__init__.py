"""HTTP routes, one module for each resource. They translate; the work is done elsewhere."""
