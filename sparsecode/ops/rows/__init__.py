"""Rows of dictionaries: their gradients from sparse lists, and their updates."""
