"""Fits the towers on point-in-time rows and judges them."""
