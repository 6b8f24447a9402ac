"""Training: the engine with its phases and steps, checkpoints, optimizers, several processes."""
