"""Simulated shoppers over a real catalogue, with known relevance and known click noise."""
