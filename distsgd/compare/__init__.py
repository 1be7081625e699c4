"""`distsgd compare`: what differs between runs, and what it did."""
