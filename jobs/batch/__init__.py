"""Daily features with Spark, and their way into the online store."""
