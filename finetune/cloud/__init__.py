"""Training where the GPU is: what is taken to another machine, what runs there, and what comes back."""
