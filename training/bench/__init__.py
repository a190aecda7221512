"""How fast training is, and its joins, beside peers."""
