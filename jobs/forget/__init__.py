"""Removing a user from everything that Pagoda keeps: `pagoda forget`."""
