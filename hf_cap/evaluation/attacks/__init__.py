"""Adversarial test sets: keywords of another class added, or those of the own class replaced."""
