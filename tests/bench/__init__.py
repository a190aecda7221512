"""The benches in short: that contestants do the same, never how fast."""
