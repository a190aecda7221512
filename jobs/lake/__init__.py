"""Care of the lake: what its tables take, and what is joined, forgotten and removed."""
