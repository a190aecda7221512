"""Spark jobs, Kafka consumers, imports and the index build."""
