"""What turns gradients into weights: losses, parameter groups and optimizers, learning-rate schedules."""
