"""Is what is served right? Checks that run beside the live system and change nothing of it."""
