"""Kill -9, again and again, and compare what is left with what was sent.

plan      which round kills what, at which instant
shop      made-up messages of a round
ledger    what Kafka acknowledged: the harness's own knowledge
oracle    what must be there by the ledger; imports nothing of what it judges
compare   what is there, and every difference
world     a private PAGODA_HOME with servers of its own
victims   finding a process group and ending it
streams, batches, vectors, scheduling   the rounds
harness   the run: journal, resumption, report
"""
