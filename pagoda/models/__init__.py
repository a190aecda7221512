"""The towers and what they read: shared by training and serving."""
