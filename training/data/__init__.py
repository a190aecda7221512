"""From the lake to batches: lines, their features as known then, and what the loop is fed."""
