"""Answers searches over HTTP."""
