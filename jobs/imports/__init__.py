"""Files and packages into the lake."""
