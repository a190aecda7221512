"""`pagoda reproduce`: a paper's claims, rerun on data at hand, and a report of what was found."""
