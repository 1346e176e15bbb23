"""Alignment training: encoded batches, gradients of attributions, losses, the trainer."""
