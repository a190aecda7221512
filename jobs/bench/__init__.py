"""How fast the jobs are, beside peers that do the same to the same rows."""
