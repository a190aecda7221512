"""The contract that every room of Pagoda shares, and its command line."""
