"""How good what is found is: ranks, metrics and their intervals, beside what is to be beaten."""
